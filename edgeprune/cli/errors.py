"""How errors look, and which exit code each kind has.

0   done
1   refused, the input is invalid, or interrupted
2   wrong usage
3   a limit that the user set with --max-drift was passed
4   a proof failed; what was written is there to be looked at
70  a bug of ours
"""

from __future__ import annotations

import os
import sys
import traceback
from enum import IntEnum
from typing import TYPE_CHECKING

import click

from edgeprune.config import ConfigError
from edgeprune.core.errors import EdgepruneError, PassError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence


class ExitCode(IntEnum):
    """What the shell is told."""

    DONE = 0
    INVALID = 1
    USAGE = 2
    LIMIT = 3
    UNPROVED = 4
    BUG = 70


_BUG_HINT = "run it again with --debug for the traceback, and report that with the output of `edgeprune --version`"


def render_error(error: BaseException, *, debug: bool) -> ExitCode:
    """Say on stderr what went wrong and what to do next; return the code to exit with."""
    if debug and not isinstance(error, click.ClickException):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return ExitCode.USAGE
    code, message, hint = _explain(error)
    _say("error", message, "red")
    if hint:
        click.echo(err=True)
        _say("hint", hint, "cyan")
    return code


def end_with(failed: Sequence[str]) -> ExitCode:
    """Say on stderr which proofs failed, so that no script takes the files for good; return the code to exit with."""
    for sentence in failed:
        _say("error", sentence, "red")
    if not failed:
        return ExitCode.DONE
    click.echo(err=True)
    _say("hint", "do not deploy it; what was written is there to be looked at: please report this model", "cyan")
    return ExitCode.UNPROVED


def _explain(error: BaseException) -> tuple[ExitCode, str, str]:
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return ExitCode.INVALID, "interrupted; nothing was written", "run the same command again"
    if isinstance(error, click.ClickException):
        return ExitCode.USAGE, error.format_message().rstrip("."), _usage_hint(error)
    if isinstance(error, EdgepruneError):
        return _explain_ours(error)
    if isinstance(error, OSError) and error.strerror:
        where = f": `{error.filename}`" if error.filename else ""
        return ExitCode.INVALID, f"{error.strerror}{where}", "check the path, its permissions and the space left"
    if isinstance(error, MemoryError):
        return ExitCode.INVALID, "not enough memory", "give a smaller --batch, or a machine with more of it"
    kind = type(error).__name__
    return ExitCode.BUG, f"this is a bug in edgeprune: {kind}: {error}", _BUG_HINT


def _explain_ours(error: EdgepruneError) -> tuple[ExitCode, str, str]:
    if isinstance(error, PassError):
        hint = "; ".join(part for part in (error.hint, _BUG_HINT) if part)
        return ExitCode.BUG, f"this is a bug in edgeprune: {error.message}", hint
    if isinstance(error, ValidationError):
        return ExitCode.LIMIT, error.message, error.hint
    code = ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.INVALID
    return code, error.message, error.hint


def _usage_hint(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "edgeprune"
    return f"`{path} --help` lists what can be given"


def _say(word: str, text: str, colour: str) -> None:
    plain = bool(os.environ.get("NO_COLOR"))
    label = f"{word}:" if plain else click.style(f"{word}:", fg=colour, bold=True)
    click.echo(f"{label} {text}", err=True)
