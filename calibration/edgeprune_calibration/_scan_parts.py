"""What a scan of the dense graph is fed with, and the step that it would take at a token of zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from edgeprune.core.graph import constant_of
from edgeprune_calibration._specs import Array

if TYPE_CHECKING:
    import onnx_ir as ir

STEP = 0  # operand of a scan
_MOVES = frozenset("Cast Identity Reshape Slice Squeeze Transpose Unsqueeze Where".split())

# Numbers that a graph is fed with: which tokens are left, the next that is left, the order with those first, and who
# stands where.
Kind: TypeAlias = Literal["live", "gone", "next", "together", "apart", "stands"]


def numbers(live: Array, kind: Kind) -> Array:
    """Numbers [B,T] of one kind from which tokens [B,T] are left, both in the order of the scan."""
    if kind in {"live", "gone"}:
        return (live if kind == "live" else ~live).astype(np.float32)
    together = np.argsort(~live, axis=1, kind="stable").astype(np.int64)
    if kind == "together":
        return together
    if kind == "apart":
        return np.argsort(together, axis=1, kind="stable").astype(np.int64)
    size = live.shape[1]
    places = np.where(live, np.arange(size), size - 1)  # behind the last that is left nothing is read any more
    return np.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1].astype(np.int64)


def resting_step(node: ir.Node) -> Array | None:
    """Softplus of what is added to the step before its own Softplus, [D]; None where nothing is found."""
    above, channels = node.inputs[STEP], constant_of(node.inputs[2])
    softplus = _first(above, "Softplus")
    added = _first(softplus.inputs[0], "Add", "Gemm") if softplus is not None else None
    for value in added.inputs if added is not None else ():
        bias = constant_of(value)
        if (
            bias is not None
            and channels is not None
            and bias.size == channels.shape[0]
            and max(bias.shape) == bias.size
        ):
            return np.logaddexp(0.0, bias.reshape(-1).astype(np.float64)).astype(np.float32)
    return None


def _first(value: ir.Value | None, *wanted: str) -> ir.Node | None:
    """The first node of a kind that makes a value, through nodes that move it; of a Where the branch that has one."""
    stack = [value]
    while stack:
        node = value.producer() if (value := stack.pop()) is not None else None
        if node is not None and node.op_type in wanted:
            return node
        if node is not None and node.op_type in _MOVES:
            stack += reversed(node.inputs[1:] if node.op_type == "Where" else node.inputs[:1])
    return None
