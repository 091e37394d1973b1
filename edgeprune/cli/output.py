"""Data on stdout: tables for people, JSON for programs; and small files that must not be half-written."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.core.errors import PlanError

if TYPE_CHECKING:
    from rich.console import RenderableType

_PIPE_WIDTH = 140


def show(what: RenderableType) -> None:
    """Print tables and text; at a fixed width where stdout is no terminal, so that output can be compared."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, highlight=False, emoji=False, markup=False).print(what)


def show_json(value: object) -> None:
    """Print a value as JSON."""
    from edgeprune.report.serialise import to_json

    show_bytes(to_json(value))


def show_bytes(data: bytes) -> None:
    """Print bytes as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def check_place(path: Path, *, force: bool) -> None:
    """Check that a file may be written, before any work is done for it.

    Raises:
        PlanError: if it exists and `force` is not given, or its folder does not exist.
    """
    if path.exists() and not force:
        msg = f"`{path}` exists already"
        raise PlanError(msg, hint="give --force to overwrite it, or another name")
    if not path.parent.is_dir():
        msg = f"no such folder: `{path.parent}`"
        raise PlanError(msg, hint="make it, or give another name")


def write_whole(path: Path, data: bytes, *, force: bool) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        PlanError: as `check_place`.
    """
    check_place(path, force=force)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
