"""The threshold of PyTorch's softplus is taken away: behind it log(1 + exp(x)) is x in fp32 anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of
from edgeprune_passes.scans._edit import replace_value

if TYPE_CHECKING:
    import onnx_ir as ir

# ln(2^24): from here on exp(-x) is below half of what fp32 resolves next to x.
_LINEAR_FROM = 16.64


def plain_softplus(model: ir.Model) -> int:
    """Where(x > threshold, x, Softplus(x)) becomes Softplus(x); how many."""
    changes = 0
    for node in model.graph:
        if node.op_type == "Where" and _is_thresholded(node) and node.inputs[2] is not None:
            replace_value(node.outputs[0], node.inputs[2])
            changes += 1
    return changes


def _is_thresholded(node: ir.Node) -> bool:
    condition, linear, smooth = (value.producer() if value is not None else None for value in node.inputs)
    source = node.inputs[1]
    if condition is None or smooth is None or condition.op_type != "Greater" or smooth.op_type != "Softplus":
        return False
    limit = constant_of(condition.inputs[1])
    known = limit is not None and limit.size == 1 and float(limit.reshape(())) >= _LINEAR_FROM
    return known and condition.inputs[0] is source and smooth.inputs[0] is source and linear is not smooth
