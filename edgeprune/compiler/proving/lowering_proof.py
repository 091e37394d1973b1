"""A lowered graph proves itself: the same numbers as the canonical one, in ONNX Runtime."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import static_shape
from edgeprune.report.checked import LoweringProof
from edgeprune_calibration.differences import largest_difference
from edgeprune_calibration.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from edgeprune_targets.lowering import Lowered

Feed = dict[str, np.ndarray]

# A lowering in fp32 reorders sums and roundings: over real exports the worst error was 2e-6 of the outputs' range.
# 1e-4 leaves room for deeper models; the smallest slip, a mean over one token too many, is above 1e-3.
FP32_TOLERANCE = 1e-4
_HALF = 2.0**-11


def prove_lowering(
    canonical: ir.Model, lowered: Lowered, feed: Mapping[str, np.ndarray], threads: int
) -> LoweringProof:
    """Run both graphs as they stand, no node rewritten, and compare all outputs.

    The tolerance is `FP32_TOLERANCE` for a graph in fp32. For fp16 it is 2^-11 * sqrt(n), n the number of fp16
    nodes on the longest path: each rounds to 2^-11 of its value, and roundings add up as a random walk does. DeiT-Tiny
    has 1e-2 by this and shows 1e-3. Tokens that a cut finds nearly equal may be chosen otherwise in fp16,
    which is no error of the lowering: prove cuts in fp32, or on data where no two scores are that near.
    """
    names = {str(value.name) for value in canonical.graph.outputs}
    before = Runner(canonical, threads=threads, optimise=False).run(feed)
    after = Runner(lowered.model, threads=threads, optimise=False).run(feed)
    same = after.keys() == names and all(before[name].shape == after[name].shape for name in names)
    error = max(largest_difference(before[name], after[name]) for name in names) if same else math.inf
    # Not the size of indices: a token's number would hide the errors of what the token holds.
    scale = max((_size(before[name]) for name in names if before[name].dtype.kind == "f"), default=0.0)
    tolerance = tolerance_of(lowered.model)
    return LoweringProof(
        runtime=lowered.runtime.name,
        max_abs_error=error,
        max_abs_value=scale,
        tolerance=tolerance,
        passed=error <= tolerance * scale,
    )


def tolerance_of(model: ir.Model) -> float:
    """What roundings explain, as a share of the largest value."""
    depth = _half_depth(model)
    return max(FP32_TOLERANCE, _HALF * math.sqrt(depth))


def noise_for(model: ir.Model, seed: int) -> Feed:
    """One reproducible input: normal noise, or ids of a vocabulary's first two words, which every table has."""
    random = np.random.default_rng(seed)
    feed: Feed = {}
    for value in model.graph.inputs:
        assert value.dtype is not None
        shape, kind = static_shape(value) or (), value.dtype.numpy()
        floats = value.dtype.is_floating_point()
        drawn = random.standard_normal(shape) if floats else random.integers(0, 2, shape)
        feed[str(value.name)] = np.asarray(drawn).astype(kind)
    return feed


def _half_depth(model: ir.Model) -> int:
    """Fp16 nodes on the longest path."""
    depth: dict[ir.Node, int] = {}
    for node in model.graph:
        before = [depth[made] for v in node.inputs if v is not None and (made := v.producer()) in depth]
        half = any(value.dtype is not None and value.dtype.name == "FLOAT16" for value in node.outputs)
        depth[node] = max(before, default=0) + half
    return max(depth.values(), default=0)


def _size(values: np.ndarray) -> float:
    sizes = np.abs(values.astype(np.float64))
    return float(sizes[np.isfinite(sizes)].max(initial=0.0))
