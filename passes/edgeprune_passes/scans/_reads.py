"""How a traced loop reads one token: a Gather, a Slice one wide, a part of a Split, an element of a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of, static_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import onnx_ir as ir

_END = (1 << 31) - 1
_NEAR = 64


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


def reads_token(*values: ir.Value) -> bool:
    """Whether what computes the values reads one token somewhere near: gates in a row in any network do not."""
    stack, seen = list(values), set(values)
    while stack and len(seen) < _NEAR:
        value = stack.pop()
        if read_of(value) is not None:
            return True
        node = value.producer()
        above = [] if node is None else [v for v in node.inputs if v is not None and v not in seen]
        seen.update(above)
        stack += above
    return False


def read_of(value: ir.Value) -> Read | None:
    """How a value reads one token, by literal operands; None if it does not."""
    node = value.producer()
    if node is None or node.op_type not in _READERS or node.inputs[0] is None:
        return None
    if node.op_type == "Split":
        return _split(node, node.inputs[0], list(node.outputs).index(value))
    operands = [constant_of(operand) for operand in node.inputs[1:]]
    present = [operand for operand in operands if operand is not None]
    return read_by(node, node.inputs[0], present) if len(present) == len(operands) else None


def read_by(node: ir.Node, source: ir.Value, operands: Sequence[np.ndarray]) -> Read | None:
    """How a Gather, a Slice or a SequenceAt reads one token of `source`, given its other operands."""
    if any(operand.size != 1 for operand in operands) or not operands:
        return None
    if node.op_type == "Slice":
        found = _slice(source, operands)
    else:
        found = _gather(node, source, operands) if node.op_type == "Gather" else _sequence_at(source, operands)
    return None if found is None else _counted_from_front(found)


def _counted_from_front(read: Read) -> Read | None:
    if read.index >= 0:
        return read
    shape = static_shape(read.source)
    return None if shape is None else Read(read.source, read.axis, read.index + shape[read.axis], read.keeps)


def _gather(node: ir.Node, source: ir.Value, operands: Sequence[np.ndarray]) -> Read | None:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    index = operands[0]
    return Read(source, axis, int(index.reshape(())), index.ndim == 1) if index.ndim < 2 else None


def _slice(source: ir.Value, operands: Sequence[np.ndarray]) -> Read | None:
    if len(operands) < 3:
        return None
    start, stop, axis, *step = [int(operand.reshape(())) for operand in operands]
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


def _sequence_at(source: ir.Value, operands: Sequence[np.ndarray]) -> Read | None:
    split = source.producer()
    if split is None or split.op_type != "SplitToSequence" or split.inputs[0] is None:
        return None
    given = len(split.inputs) > 1 and split.inputs[1] is not None
    sizes = constant_of(split.inputs[1]) if given else None
    if given and (sizes is None or (sizes != 1).any()):
        return None
    axis = split.attributes["axis"].as_int() if "axis" in split.attributes else 0
    keeps = given or "keepdims" not in split.attributes or split.attributes["keepdims"].as_int() == 1
    return Read(split.inputs[0], axis, int(operands[0].reshape(())), keeps)


_READERS = {"Gather", "Slice", "Split", "SequenceAt"}
