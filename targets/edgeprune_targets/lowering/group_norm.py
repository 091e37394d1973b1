"""GroupNormalization as an InstanceNormalization of the groups, as exporters wrote it before opset 18."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import constant_of
from edgeprune_targets.lowering._rewrite import float_of, int_of, nodes_of, replace, tape_before

if TYPE_CHECKING:
    import onnx_ir as ir


def decompose_group_norm(model: ir.Model) -> int:
    """Normalise [B, G, C/G * ...] over its last axis, then scale and shift by channel."""
    nodes = [node for node in nodes_of(model, "GroupNormalization") if _affine(model, node) is not None]
    for node in nodes:
        _decompose(model, node)
    return len(nodes)


def _affine(model: ir.Model, node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and bias by channel; opset 18 gives them by group. None where they are computed."""
    scale, bias = constant_of(node.inputs[1]), constant_of(node.inputs[2])
    x = node.inputs[0]
    if scale is None or bias is None or x is None or x.shape is None or not isinstance(x.shape[1], int):
        return None
    if model.opset_imports.get("", 0) >= 21:
        return scale, bias
    wide = x.shape[1] // scale.shape[0]
    return np.repeat(scale, wide), np.repeat(bias, wide)


def _decompose(model: ir.Model, node: ir.Node) -> None:
    x, affine = node.inputs[0], _affine(model, node)
    assert x is not None
    assert affine is not None
    tape = tape_before(model, node)
    shape, groups = tape.shape(x), int_of(node, "num_groups", 1)
    rows = tape.op("Reshape", x, tape.ints([shape[0], groups, -1]))
    ones = tape.constant(np.ones(groups, affine[0].dtype))
    zeros = tape.constant(np.zeros(groups, affine[0].dtype))
    y = tape.op("InstanceNormalization", rows, ones, zeros, epsilon=float_of(node, "epsilon", 1e-5))
    y = tape.op("Reshape", y, tape.ints(shape))
    scale, bias = (tape.constant(part.reshape(-1, *[1] * (len(shape) - 2))) for part in affine)
    replace(model, node, tape.op("Add", tape.op("Mul", y, scale), bias))
