"""What one call of the command line carries along, and the options that every command has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeprune.cli.defaults import defaults_of

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class State:
    """Settings of this call; filled while the words are read, so that errors know them too."""

    words: tuple[str, ...] = ()
    debug: bool = False
    quiet: bool = False
    config: Path | None = None


def state_of(ctx: click.Context) -> State:
    """The state of this call."""
    return ctx.find_root().ensure_object(State)


def general_options(command: F) -> F:
    """Add --config, --quiet and --debug."""
    command = click.option(
        "--debug", is_flag=True, expose_value=False, is_eager=True, envvar="EDGEPRUNE_DEBUG", callback=_debug,
        help="Show the traceback of an error.",
    )(command)  # fmt: skip
    command = click.option(
        "--quiet", "-q", is_flag=True, expose_value=False, is_eager=True, envvar="EDGEPRUNE_QUIET", callback=_quiet,
        help="Show no progress.",
    )(command)  # fmt: skip
    return click.option(
        "--config", type=click.Path(path_type=Path), expose_value=False, is_eager=True, envvar="EDGEPRUNE_CONFIG",
        callback=_config, help="File of options; edgeprune.toml of the working directory if there is one.",
    )(command)  # fmt: skip


def _debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    state_of(ctx).debug |= value


def _quiet(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    state_of(ctx).quiet |= value


def _config(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    state = state_of(ctx)
    state.config = value or state.config
    if not isinstance(ctx.command, click.Group):
        ctx.default_map = defaults_of(ctx, state.config)
