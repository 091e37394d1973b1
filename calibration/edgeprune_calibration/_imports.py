"""Fetching a user's own object by 'pkg.module:name'. This runs the user's code, and only because the user named it."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

from edgeprune.core.errors import EdgepruneError

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_reference(text: str) -> bool:
    """Tell whether `text` has the form 'pkg.module:name'."""
    return _REFERENCE.fullmatch(text) is not None


def import_object(reference: str, error: type[EdgepruneError]) -> object:
    """Import 'pkg.module:name'; modules in the current folder are found too.

    Args:
        reference: 'pkg.module:name', the name may have dots.
        error: class to raise.

    Raises:
        EdgepruneError: as `error`, if the module does not import or has no such name.
    """
    module_name, _, attribute = reference.partition(":")
    try:
        with _current_folder_first():
            found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        msg = f"cannot import `{module_name}` of `{reference}`: no module named `{exc.name}`"
        raise error(msg, hint="install it, or run where the module lies") from exc
    except Exception as exc:  # whatever the user's module raises
        msg = f"cannot import `{module_name}` of `{reference}`: {describe(exc)}"
        raise error(msg, hint=f"python -c 'import {module_name}' shows the whole error") from exc
    for part in attribute.split("."):
        if not hasattr(found, part):
            msg = f"`{module_name}` has no `{attribute}`"
            raise error(msg, hint="write it as pkg.module:name")
        found = getattr(found, part)
    return found


@contextmanager
def _current_folder_first() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def describe(exc: BaseException) -> str:
    """Exception as one line: its type and the first line of its message, without terminal colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(exc)).splitlines() if line.strip()]
    name = type(exc).__name__
    return f"{name}: {shorten(lines[0], 200, placeholder=' ...').rstrip('.:')}" if lines else name
