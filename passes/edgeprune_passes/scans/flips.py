"""Every spelling of a flip becomes one: a Slice with step -1 from the last to before the first, whatever the length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import PREFIX, constant_of, static_shape
from edgeprune.core.tape import Tape, fresh_name
from edgeprune_passes.scans._edit import replace_value
from edgeprune_passes.scans._flips import BEFORE_FIRST, flipped, slice_entries
from edgeprune_passes.scans._views import takes_all

if TYPE_CHECKING:
    import onnx_ir as ir


def unify_flips(model: ir.Model) -> int:
    """Rewrite a Gather with descending indices, a ReverseSequence of whole sequences, and a Slice; how many."""
    changes = 0
    for node in list(model.graph):
        axis = _flipped_axis(node)
        if axis is None:
            continue
        tape = Tape(model, before=node, prefix=fresh_name(model, f"{PREFIX}flip"))
        source = node.inputs[0]
        assert source is not None
        replace_value(node.outputs[0], flipped(tape, source, axis))
        changes += 1
    return changes


def cancel_flips(model: ir.Model) -> int:
    """Take away two flips of the same axis in a row; how many."""
    changes = 0
    for node in model.graph:
        before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        axis = _flip(node)
        if before is None or axis is None or _flip(before) != axis or before.inputs[0] is None:
            continue
        source = before.inputs[0]
        if not node.outputs[0].is_graph_output() or (source.producer() is not None and not source.is_graph_output()):
            replace_value(node.outputs[0], source)
            changes += 1
    return changes


def _flip(node: ir.Node | None) -> int | None:
    """The axis that a Slice reads backwards."""
    shape = static_shape(node.inputs[0]) if node is not None and node.op_type == "Slice" and node.inputs[0] else None
    entries = slice_entries(node, shape) if node is not None and shape is not None else None
    if shape is None or entries is None or len(entries) != 1 or not entries[0].is_flip(shape[entries[0].axis]):
        return None
    return entries[0].axis


def drop_idle_slices(model: ir.Model) -> int:
    """Take away Slices that take everything; how many."""
    idle = [node for node in model.graph if takes_all(node) and not node.outputs[0].is_graph_output()]
    for node in idle:
        source = node.inputs[0]
        assert source is not None
        replace_value(node.outputs[0], source)
    return len(idle)


def _flipped_axis(node: ir.Node) -> int | None:
    """The axis that a node reads backwards; None if it does not, or says so in the one spelling already."""
    shape = static_shape(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
    if shape is None:
        return None
    if node.op_type == "Gather":
        return _of_gather(node, shape)
    if node.op_type == "ReverseSequence":
        return _of_reverse_sequence(node, shape)
    return _of_slice(node) if node.op_type == "Slice" else None


def _of_gather(node: ir.Node, shape: tuple[int, ...]) -> int | None:
    axis = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % len(shape)
    indices = constant_of(node.inputs[1])
    if indices is None or indices.ndim != 1 or indices.size != shape[axis] or indices.size < 2:
        return None
    return axis if np.array_equal(indices % shape[axis], np.arange(shape[axis])[::-1]) else None


def _of_reverse_sequence(node: ir.Node, shape: tuple[int, ...]) -> int | None:
    axis = node.attributes["time_axis"].as_int() if "time_axis" in node.attributes else 0
    lengths = constant_of(node.inputs[1])
    return axis if lengths is not None and (lengths == shape[axis]).all() else None


def _of_slice(node: ir.Node) -> int | None:
    said = [constant_of(value) for value in node.inputs[1:3]]
    plain = [array.reshape(-1).tolist() for array in said if array is not None] == [[-1], [BEFORE_FIRST]]
    return None if plain else _flip(node)
