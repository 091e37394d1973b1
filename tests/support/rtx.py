"""Real builds with TensorRT-RTX in one call, for tests that are about what it does with a graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeprune.core.results import EngineBuild
from edgeprune_targets.builders.tensorrt_rtx import RtxBuilder
from edgeprune_targets.profiles import Target


def build(
    model: Path | bytes, targets: Sequence[Target], folder: Path, *, name: str = "model", attentions: int | None = None
) -> list[EngineBuild]:
    return RtxBuilder().build(model, targets, folder, name=name, attentions=attentions)
