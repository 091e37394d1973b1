"""Where an unrolled loop puts what its steps gave: a Concat of one value a token, or a list that is joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of, static_shape
from edgeprune_passes.scans._declined import DeclinedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

# Operators between a state and where its token is collected.
_FARTHEST = 64


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """What one output of the loop is made of.

    Attributes:
        result: all tokens.
        values: one a token, in the order of steps.
        axis: of the tokens in `result`.
        backwards: the last step stands first.
        keeps: the values have the axis too, with size one.
    """

    result: ir.Value
    values: list[ir.Value]
    axis: int
    backwards: bool
    keeps: bool


def find_collected(states: Sequence[ir.Value], products: set[ir.Node]) -> list[Collected]:
    """All collections that depend on the states.

    Args:
        states: after each step.
        products: of a state and a decay: what leads to the next state.

    Raises:
        DeclinedError: if what depends on a state goes elsewhere.
    """
    found: dict[ir.Node, int] = {}
    seen: set[ir.Node] = set()
    stack = [states[1]]
    while stack:
        value = stack.pop()
        if value.is_graph_output() or len(seen) > _FARTHEST:
            raise DeclinedError(value, "what the steps of the unrolled recurrence give is not collected in one place")
        for use in value.uses():
            node = use.node
            if node.op_type in {"Concat", "SequenceConstruct"} and len(node.inputs) >= len(states):
                found[node] = use.idx
            elif node not in seen and node not in products:
                seen.add(node)
                stack += node.outputs
    if not found:
        raise DeclinedError(states[1], "nothing collects the states of the unrolled recurrence")
    return [_collected(node, index, len(states)) for node, index in found.items()]


def _collected(node: ir.Node, index: int, steps: int) -> Collected:
    values = [value for value in node.inputs if value is not None]
    if len(values) != steps or index not in {1, steps - 2}:
        raise DeclinedError(node, f"{steps} steps of the unrolled recurrence are collected among {len(values)} values")
    backwards = index != 1
    values = values[::-1] if backwards else values
    if node.op_type == "SequenceConstruct":
        joined = _joined(node)
        axis = joined.attributes["axis"].as_int()
        stacked = "new_axis" in joined.attributes and joined.attributes["new_axis"].as_int() == 1
        return Collected(joined.outputs[0], values, axis, backwards, keeps=not stacked)
    axis = node.attributes["axis"].as_int()
    bare = [_unstacked(value, axis) for value in values]
    plain = [value for value in bare if value is not None]
    if len(plain) == len(values):
        return Collected(node.outputs[0], plain, axis, backwards, keeps=False)
    return Collected(node.outputs[0], values, axis, backwards, keeps=True)


def _joined(node: ir.Node) -> ir.Node:
    users = [use.node for use in node.outputs[0].uses()]
    if len(users) != 1 or users[0].op_type != "ConcatFromSequence":
        raise DeclinedError(node, "the list of what the steps gave is not joined")
    return users[0]


def _unstacked(value: ir.Value, axis: int) -> ir.Value | None:
    """What an Unsqueeze made a place for on the axis of the Concat; None if it is none."""
    node = value.producer()
    if node is None or node.op_type != "Unsqueeze" or len(node.inputs) < 2:
        return None
    axes = constant_of(node.inputs[1])
    rank = len(static_shape(value) or ()) or None
    if axes is None or axes.size != 1:
        return None
    own = int(axes.reshape(()))
    same = own == axis or (rank is not None and own % rank == axis % rank)
    return node.inputs[0] if same else None
