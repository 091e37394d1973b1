"""Builders: from an ONNX file to an engine. The only part of this room that runs a vendor's library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from edgeprune.core.results import EngineBuild
    from edgeprune_targets.profiles import Target


class Builder(Protocol):
    """Makes engines. A build that fails is data (`EngineBuild.error`), since the rest of a compile is still good."""

    name: ClassVar[str]

    def lacking(self) -> str | None:
        """Why nothing can be built here and how to change that; None where it can."""
        ...

    def build(
        self, model: Path | bytes, targets: Sequence[Target], folder: Path, *, name: str, attentions: int | None
    ) -> list[EngineBuild]:
        """Build one engine a compute capability into `folder`; one result a target."""
        ...
