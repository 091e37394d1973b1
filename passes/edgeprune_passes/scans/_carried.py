"""What a Loop carries from step to step, by the part that it plays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._edit import above_identity

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """One value that a Loop carries.

    Attributes:
        before: in the body, as a step finds it.
        after: in the body, as a step leaves it.
        initial: outside, before the first step.
        final: outside, after the last one.
    """

    before: ir.Value
    after: ir.Value
    initial: ir.Value
    final: ir.Value

    @property
    def is_fixed(self) -> bool:
        """Whether no step changes it."""
        return above_identity(self.after) is self.before

    @property
    def is_counter(self) -> bool:
        """Whether it is a whole number with a known start."""
        array = constant_of(self.initial)
        return array is not None and array.size == 1 and array.dtype.kind in "iub"


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """A value of each step that a Loop collects.

    Attributes:
        inner: of one step, in the body.
        result: of all steps, outside.
        axis: of the tokens in `result`.
        keeps: `inner` has that axis too, with size one.
        backwards: the last step stands first.
    """

    inner: ir.Value
    result: ir.Value
    axis: int
    keeps: bool
    backwards: bool = False


def gathered(carried: Carried) -> Gathered | None:
    """A list that grows, or a tensor that each step is joined to; None if it is neither.

    Raises:
        DeclinedError: if it is, but does not start empty or is not joined behind.
    """
    node = carried.after.producer()
    if node is None or carried.before not in node.inputs:
        return None
    if node.op_type == "SequenceInsert":
        return _listed(carried, node)
    if node.op_type != "Concat" or len(node.inputs) != 2:
        return None
    axis = node.attributes["axis"].as_int()
    if not _starts_empty(carried.initial, axis):
        raise DeclinedError(node, "what the loop joins its steps to does not start empty")
    first, second = node.inputs
    backwards = second is carried.before
    inner = first if backwards else second
    assert inner is not None
    return Gathered(inner, carried.final, axis, keeps=True, backwards=backwards)


def _starts_empty(value: ir.Value, axis: int) -> bool:
    """Whether it has no element along the axis, or is made to a shape that says so."""
    array = constant_of(value)
    if array is not None:
        return array.size == 0
    made = value.producer()
    shape = (
        made.inputs[0].producer() if made is not None and made.op_type == "ConstantOfShape" and made.inputs[0] else None
    )
    if shape is None or shape.op_type != "Concat":
        return False
    size = constant_of(shape.inputs[axis]) if -len(shape.inputs) <= axis < len(shape.inputs) else None
    return size is not None and size.size == 1 and not size.any()


def _listed(carried: Carried, node: ir.Node) -> Gathered:
    start, inner = carried.initial.producer(), node.inputs[1]
    if start is None or start.op_type != "SequenceEmpty" or len(node.inputs) > 2 or inner is None:
        raise DeclinedError(node, "the list of what the steps of the loop give does not start empty")
    users = [use.node for use in carried.final.uses()]
    if len(users) != 1 or users[0].op_type != "ConcatFromSequence":
        raise DeclinedError(node, "the list of what the steps of the loop give is not joined")
    joined = users[0]
    stacked = "new_axis" in joined.attributes and joined.attributes["new_axis"].as_int() == 1
    return Gathered(inner, joined.outputs[0], joined.attributes["axis"].as_int(), keeps=not stacked)
