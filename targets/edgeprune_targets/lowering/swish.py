"""Swish (opset 24) as x * sigmoid(alpha * x)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeprune_targets.lowering._rewrite import float_of, nodes_of, replace, tape_before

if TYPE_CHECKING:
    import onnx_ir as ir


def decompose_swish(model: ir.Model) -> int:
    """Write the product; TensorRT's importer knows Swish from version 11 and writes the same layers."""
    nodes = list(nodes_of(model, "Swish"))
    for node in nodes:
        x = node.inputs[0]
        assert x is not None
        assert x.dtype is not None
        tape = tape_before(model, node)
        alpha = float_of(node, "alpha", 1.0)
        scaled = x if alpha == 1 else tape.op("Mul", x, tape.constant(np.asarray(alpha, x.dtype.numpy())))
        replace(model, node, tape.op("Mul", x, tape.op("Sigmoid", scaled)))
    return len(nodes)
