"""Progress of long work, told to whoever wants to know; nothing in the rooms prints."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Stage(Protocol):
    """One piece of work under way."""

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more steps as done."""
        ...


class Progress(Protocol):
    """Someone who is told about stages as they start, advance and end."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Stage]:
        """Open a stage of `total` steps, None where their number is not known."""
        ...


class _SilentStage:
    def advance(self, steps: int = 1) -> None:
        """Tell nobody."""


class SilentProgress:
    """A progress that tells nobody."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Stage]:  # noqa: ARG002 (the protocol's)
        """Open a stage that tells nobody."""
        return nullcontext(_SilentStage())


SILENT = SilentProgress()
