"""The deploy folders: for devices that build their engines themselves."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.saving import save_model
from edgeprune_calibration.runner import Runner
from edgeprune_targets.bundle import write_bundle
from edgeprune_targets.language_side import language_side

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.compiler.delivering.lowerings import Lowerings
    from edgeprune.compiler.proving.proofs import Feed
    from edgeprune_targets.profiles import Target

DEPLOY = "deploy"


def write_bundles(
    lowerings: Lowerings, targets: Sequence[Target], out: Path, *, plan: bytes, feed: Feed | None
) -> None:
    """`out`/deploy, or `out`/deploy/TARGET where there are several.

    Args:
        lowerings: of the compiled and the dense graph.
        targets: that build for themselves.
        out: the output folder.
        plan: bytes of plan.json.
        feed: a real input, to hold engines against ONNX Runtime on the device; None without data.
    """
    for target in targets:
        place = out / DEPLOY if len(targets) == 1 else out / DEPLOY / target.name
        with tempfile.TemporaryDirectory(dir=out, prefix=".deploy-") as scratch:
            _write(lowerings, target, place, Path(scratch), plan=plan, feed=feed)


def _write(lowerings: Lowerings, target: Target, place: Path, scratch: Path, *, plan: bytes, feed: Feed | None) -> None:
    runtime = lowerings.on_device(target)
    lowered = lowerings.of("model", runtime, target)
    save_model(lowered.model, scratch / "model.onnx")
    dense = lowerings.of("dense", runtime, target)
    save_model(dense.model, scratch / "dense.onnx")
    write_bundle(
        place,
        scratch / "model.onnx",
        plan,
        target,
        precision=lowerings.plan.precision,
        tensorrt=runtime.version,
        dense=scratch / "dense.onnx",
        fp32_layers={"model": lowered.fp32_layers, "dense": dense.fp32_layers},
        reference=_reference(lowered.model, feed, scratch),
        source_sha256=lowerings.plan.model_sha256,
        guide=language_side(lowerings.graphs["model"], lowerings.plan),
    )


def _reference(model: ir.Model, feed: Feed | None, scratch: Path) -> Path | None:
    """Inputs and outputs of the graph as the device gets it, every node as it stands."""
    if feed is None:
        return None
    outputs = Runner(model, optimise=False).run(feed)
    arrays = {f"input:{name}": array for name, array in feed.items()}
    arrays |= {f"output:{name}": array for name, array in outputs.items()}
    path = scratch / "reference.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's own types take names for options
    return path
