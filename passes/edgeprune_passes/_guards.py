"""Remove what exporters write around attention for masks that mask nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.graph import constant_of, static_shape

if TYPE_CHECKING:
    from collections.abc import Callable


def remove_dummy_masks(model: ir.Model) -> int:
    """Remove additive masks of zeros, then the NaN guards behind softmaxes that are not masked; the number removed.

    An all-true mask arrives here folded to a constant of zeros. A guard `Where(IsNaN(p), 0, p)` protects rows that a
    mask empties; with no mask on the way there are none.
    """
    return _sweep(model, _zero_mask) + _sweep(model, _idle_guard)


def _sweep(model: ir.Model, match: Callable[[ir.Node], ir.Value | None]) -> int:
    count = 0
    for node in list(model.graph):
        value = match(node)
        if value is None:
            continue
        ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=False)
        count += 1
    return count


def _zero_mask(node: ir.Node) -> ir.Value | None:
    """The scores, if the node adds a constant of zeros to them and a Softmax follows."""
    if node.op_type != "Add" or not any(use.node.op_type == "Softmax" for use in node.outputs[0].uses()):
        return None
    if node.outputs[0].is_graph_output():
        return None
    for scores, mask in (node.inputs, reversed(node.inputs)):
        array = constant_of(mask)
        if (
            array is not None
            and not np.any(array)
            and scores is not None
            and static_shape(scores) == static_shape(node.outputs[0])
        ):
            return scores
    return None


def _idle_guard(node: ir.Node) -> ir.Value | None:
    """The probabilities, if the node is a NaN guard behind a softmax whose scores come straight from a product."""
    if node.op_type != "Where" or len(node.inputs) != 3 or node.outputs[0].is_graph_output():
        return None
    condition, zero, probs = node.inputs
    guard = condition.producer() if condition is not None else None
    array = constant_of(zero)
    if guard is None or guard.op_type != "IsNaN" or guard.inputs[0] is not probs or array is None or np.any(array):
        return None
    return probs if probs is not None and not _masked(probs) else None


def _masked(probs: ir.Value) -> bool:
    """Whether anything but a scaled product feeds the softmax."""
    softmax = probs.producer()
    node = (
        softmax.inputs[0].producer()
        if softmax is not None and softmax.op_type == "Softmax" and softmax.inputs[0]
        else None
    )
    while node is not None and node.op_type in {"Mul", "Div"}:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node is None or node.op_type != "MatMul"
