"""A deploy folder around models that no test looks into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeprune_targets.bundle import write_bundle
from edgeprune_targets.profiles import load_target

if TYPE_CHECKING:
    from pathlib import Path

PLAN = b"{}\n"
SOURCE = "ab" * 32


def make_bundle(place: Path, target: str = "jetson-orin-nano", **options: Any) -> Path:
    """`place/out/deploy`, with a pruned and a dense model."""
    place.mkdir(exist_ok=True)
    for name in ("pruned", "dense"):
        (place / f"{name}.onnx").write_bytes(name.encode())
    options = {"dense": place / "dense.onnx", "source_sha256": SOURCE} | options
    write_bundle(place / "out" / "deploy", place / "pruned.onnx", PLAN, load_target(target), **options)
    return place / "out" / "deploy"
