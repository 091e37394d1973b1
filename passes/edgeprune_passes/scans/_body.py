"""A loop with one state, raised: its body for all tokens at once, then refined to a selective scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.graph import PREFIX, constant_of, static_shape
from edgeprune.core.tape import Tape, fresh_name
from edgeprune_passes.scans._affine import split_state
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._edit import replace_value
from edgeprune_passes.scans._flips import flipped
from edgeprune_passes.scans._lift import Lifter
from edgeprune_passes.scans._refine import Recurrence, refine

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """A value of the body that the loop collects.

    Attributes:
        inner: of one token.
        outer: of all tokens.
        axis: where the tokens are.
        flipped: the other way about than tokens are read.
    """

    inner: ir.Value
    outer: ir.Value
    axis: int
    flipped: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A loop over tokens.

    Attributes:
        node: the loop.
        graph: its body.
        before: the state that a step reads.
        after: the state that it leaves.
        initial: the state before the first step.
        final: the state after the last one, outside; None where nothing could read it.
        stacked: what the loop collects.
        tokens: steps.
        backwards: the last token is the first step.
    """

    node: ir.Node
    graph: ir.Graph
    before: ir.Value
    after: ir.Value
    initial: ir.Value
    final: ir.Value | None
    stacked: tuple[Stacked, ...]
    tokens: int
    backwards: bool


def raise_body(model: ir.Model, body: Body, tape: Tape, bulk: Mapping[ir.Value, ir.Value]) -> ir.Node:
    """Write a selective scan instead of the loop.

    Args:
        model: to rewrite.
        body: the loop.
        tape: that wrote `bulk`, before the loop.
        bulk: values of the body that differ by token, for all tokens, [T, ...].

    Raises:
        DeclinedError: in what it is no selective scan; nothing that was there has changed then.
    """
    start = static_shape(body.initial)
    _check_ends(body, start)
    rank = len(start or ())
    step = split_state(body.before, body.after)
    states = ir.Value(name=f"{tape.prefix}/h", type=body.initial.type)
    lifter = Lifter(tape, {**bulk, body.after: states}, lambda node: node.graph is body.graph, body.tokens)
    decay = _product(tape, [lifter.lift(value, rank) for value in step.decay if not _is_one(value)], "Mul")
    added = _required(_product(tape, [lifter.lift(value, rank) for value in step.added], "Add"), body)
    # A first state of batch one is repeated for all of the batch by the first product.
    parts = [tape.shape(value)[-rank:] for value in (decay, added) if value is not None]
    shape = np.broadcast_shapes(start or (), *parts)
    states.shape = ir.Shape((body.tokens, *shape))
    ends = [(_lifted(lifter, tape, stacked, states), stacked) for stacked in body.stacked]
    order = tuple(range(len(shape) + 1))
    named = [(states, order), *((s.outer, _moved(order, s.axis)) for s in body.stacked if s.inner is body.after)]
    found = Recurrence(
        decay=decay,
        added=added,
        states=tuple(named),
        shape=shape,
        tokens=body.tokens,
        backwards=body.backwards,
        at=body.node,
    )
    node = refine(model, found)
    for end, stacked in ends:
        if end is not None:
            replace_value(stacked.outer, end)
    return node


def _check_ends(body: Body, shape: tuple[int, ...] | None) -> None:
    if shape is None:
        raise DeclinedError(body.node, f"the first state `{body.initial.name}` has no static shape")
    array = constant_of(body.initial)
    if array is None or array.any():
        raise DeclinedError(body.node, "the first state is not zero")
    final = body.final
    if final is not None and (final.is_graph_output() or any(True for _ in final.uses())):
        raise DeclinedError(body.node, "the state after the last token is read")


def _lifted(lifter: Lifter, tape: Tape, stacked: Stacked, states: ir.Value) -> ir.Value | None:
    # From the lifted body; None for the states themselves and for what nothing reads.
    outer = stacked.outer
    if not outer.uses() and not outer.is_graph_output():
        return None
    value = lifter.lift(stacked.inner)
    if value is states:
        if stacked.flipped:
            raise DeclinedError(outer, "the states are collected backwards")
        return None
    order = _moved(tuple(range(len(tape.shape(value)))), stacked.axis)
    placed = tape.op("Transpose", value, perm=order) if order[0] else tape.op("Identity", value)
    return flipped(tape, placed, order.index(0)) if stacked.flipped else placed


def _moved(order: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The order of axes once the first stands at `axis`."""
    rest = list(order[1:])
    rest.insert(axis % len(order), order[0])
    return tuple(rest)


def _is_one(value: ir.Value) -> bool:
    """The factor that torch.addcmul writes beside a product."""
    array = constant_of(value)
    return array is not None and array.size == 1 and float(array.reshape(())) == 1.0


def _product(tape: Tape, values: list[ir.Value], op_type: str) -> ir.Value | None:
    if not values:
        return None
    result = values[0]
    for value in values[1:]:
        result = tape.op(op_type, result, value)
    return result


def _required(value: ir.Value | None, body: Body) -> ir.Value:
    if value is None:
        raise DeclinedError(body.node, "nothing is added to the state")
    return value


def new_tape(model: ir.Model, before: ir.Node) -> Tape:
    """A tape for one scan, whose prefix is its own."""
    return Tape(model, before=before, prefix=fresh_name(model, f"{PREFIX}scan"))
