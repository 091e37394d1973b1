"""Data on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

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
