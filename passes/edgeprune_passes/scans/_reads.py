"""How a traced loop reads one token: a Gather, a Slice one wide, a part of a Split, an element of a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import constant_of, static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

_END = (1 << 31) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """One token.

    Attributes:
        source: the sequence.
        axis: of the tokens, as the operator names it.
        index: of the token.
        keeps: the axis stays, with size one.
    """

    source: ir.Value
    axis: int
    index: int
    keeps: bool

    def is_beside(self, other: Read) -> bool:
        """Whether two read the same sequence in the same way."""
        return (self.source, self.axis, self.keeps) == (other.source, other.axis, other.keeps)


def read_of(value: ir.Value) -> Read | None:
    """How a value reads one token; None if it does not."""
    node = value.producer()
    rule = _RULES.get(node.op_type) if node is not None else None
    if node is None or rule is None or node.inputs[0] is None:
        return None
    found = rule(node, node.inputs[0], list(node.outputs).index(value))
    return None if found is None else _counted_from_front(found)


def _counted_from_front(read: Read) -> Read | None:
    if read.index >= 0:
        return read
    shape = static_shape(read.source)
    return None if shape is None else Read(read.source, read.axis, read.index + shape[read.axis], read.keeps)


def _gather(node: ir.Node, source: ir.Value, _: int) -> Read | None:
    indices = constant_of(node.inputs[1])
    if indices is None or indices.size != 1 or indices.ndim > 1:
        return None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    return Read(source, axis, int(indices.reshape(())), indices.ndim == 1)


def _slice(node: ir.Node, source: ir.Value, _: int) -> Read | None:
    arrays = [constant_of(v) for v in node.inputs[1:]]
    if any(array is None or array.size != 1 for array in arrays) or len(arrays) < 3:
        return None
    start, stop, axis, *step = [int(array.reshape(())) for array in arrays if array is not None]
    one_wide = stop == start + 1 or (start == -1 and stop >= _END)
    return Read(source, axis, start, keeps=True) if one_wide and step in ([], [1]) else None


def _split(node: ir.Node, source: ir.Value, part: int) -> Read | None:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    sizes = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    shape = node.outputs[part].shape
    own = shape[axis] if shape is not None else None
    if (sizes is None and own != 1) or (sizes is not None and (sizes != 1).any()):
        return None
    return Read(source, axis, part, keeps=True)


def _sequence_at(node: ir.Node, source: ir.Value, _: int) -> Read | None:
    split, index = source.producer(), constant_of(node.inputs[1])
    if split is None or split.op_type != "SplitToSequence" or index is None or split.inputs[0] is None:
        return None
    sizes = constant_of(split.inputs[1]) if len(split.inputs) > 1 else None
    given = len(split.inputs) > 1 and split.inputs[1] is not None
    if given and (sizes is None or (sizes != 1).any()):
        return None
    axis = split.attributes["axis"].as_int() if "axis" in split.attributes else 0
    keeps = given or "keepdims" not in split.attributes or split.attributes["keepdims"].as_int() == 1
    return Read(split.inputs[0], axis, int(np.asarray(index).reshape(())), keeps)


_RULES = {"Gather": _gather, "Slice": _slice, "Split": _split, "SequenceAt": _sequence_at}
