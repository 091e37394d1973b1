"""Bring the tokens back, before a head or an output that needs them all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.errors import PlanError
from edgeprune.core.flow.labels import Segment, Tokens
from edgeprune.core.graph import PREFIX, consumers, downstream, upstream
from edgeprune.core.tape import Tape, fresh_name
from edgeprune_passes._cut import replace_input
from edgeprune_passes._layout import from_stream, to_stream
from edgeprune_passes._rows import gather_rows, row_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeprune.core.flow.labels import Label
    from edgeprune.core.plan import Restore
    from edgeprune_passes.selection import Selection


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """One cut that was made: the stream before it, the stream after it, and what was selected."""

    before: ir.Value
    after: ir.Value
    selection: Selection
    tokens: int


def free_users(value: ir.Value, anchors: Iterable[ir.Node]) -> list[ir.Node]:
    """The users of a value that no later block depends on: those that may see all tokens again."""
    later = set(anchors)
    return [node for node in consumers(value) if not (later & {node, *downstream(node.outputs)})]


def place_restore(model: ir.Model, value: ir.Value, anchors: Iterable[ir.Node]) -> ir.Node | None:
    """Put a Restore node between a stream and those of its users that no later block depends on.

    Returns:
        The node; None if no user is left to serve.
    """
    users = free_users(value, anchors)
    is_output = value.is_graph_output()
    if not users and not is_output:
        return None
    name = fresh_name(model, f"{PREFIX}restore/{value.name}")
    node = ir.node(
        "Restore", [value], domain="edgeprune", outputs=[ir.Value(name=name, shape=value.shape, type=value.type)]
    )
    node.name = name
    producer = value.producer()
    assert producer is not None
    model.graph.insert_after(producer, node)
    for user in users:
        replace_input(user, value, node.outputs[0])
    if is_output:
        _take_over_output(model, value, node.outputs[0])
    return node


def _take_over_output(model: ir.Model, value: ir.Value, new: ir.Value) -> None:
    outputs = model.graph.outputs
    for i, output in enumerate(outputs):
        if output is value:
            outputs[i] = new
    value.name, new.name = fresh_name(model, f"{value.name}/cut"), value.name


def lower_restore(
    model: ir.Model, node: ir.Node, label: Label, history: Sequence[Done], batch: int, mode: Restore = "auto"
) -> None:
    """Replace a Restore node by plain operators that undo, in reverse order, the cuts above it.

    Args:
        model: the graph.
        node: the Restore node.
        label: of its input, with the tokens of the dense model.
        history: the cuts that were made.
        batch: B.
        mode: `unmerge` gives each merged token its group's value and refuses dropped ones; `last-seen` gives every
            token that did not go on itself what it was at its cut; `auto` unmerges merged tokens and takes dropped ones
            as last seen.

    Raises:
        PlanError: if tokens were dropped that `unmerge` should bring back.
    """
    value = node.inputs[0]
    assert value is not None
    above = upstream(value)
    cuts = [done for done in history if done.after.producer() in above]
    tape = Tape(model, before=node, prefix=node.name or "edgeprune/restore")
    stream = _to_stream(tape, value, label, batch)
    if mode == "last-seen":
        cuts = [replace(done, selection=replace(done.selection, merge=None, covers=False)) for done in cuts]
    covered = all(done.selection.covers for done in cuts)
    if mode == "unmerge" and not covered:
        msg = f"`{value.name}` cannot be unmerged: tokens were dropped"
        raise PlanError(msg, hint="choose a strategy that only merges, such as tome, or --restore auto")
    if cuts and covered:
        stream = _unmerge(tape, stream, cuts)
    else:
        for done in reversed(cuts):
            stream = _last_seen(tape, stream, done)
    full = from_stream(tape, stream, label, batch)
    if node.outputs[0].is_graph_output():
        full = tape.op("Identity", full)
        full.name, node.outputs[0].name = node.outputs[0].name, f"{full.name}/gone"
    ir.convenience.replace_all_uses_with(node.outputs[0], full, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def _to_stream(tape: Tape, value: ir.Value, label: Label, batch: int) -> ir.Value:
    """The shortened stream as [B, K, D]: the label still counts the tokens of the dense model."""
    kept = tape.shape(value)[label.token_axes[0]]
    return to_stream(tape, value, label.with_axis(label.token_axes[0], (Tokens((Segment(0, kept),)),)), batch)


def _assignment(tape: Tape, done: Done) -> tuple[ir.Value, ir.Value]:
    """For each old token the new one that holds it, int64 [B, T], and whether there is one, bool [B, T]."""
    where, held = _position(tape, done.selection.index, done.tokens)
    merge = done.selection.merge
    if merge is None:
        return where, held
    place, merged = _position(tape, merge.source, done.tokens)
    into = tape.op("GatherElements", row_of(tape, done.selection.index, merge.into), place, axis=1)
    return tape.op("Where", merged, into, where), tape.op("Or", held, merged)


def _position(tape: Tape, index: ir.Value, tokens: int) -> tuple[ir.Value, ir.Value]:
    """Where each of `tokens` stands in `index` [B, K], and whether it stands there."""
    everyone = tape.constant(np.arange(tokens, dtype=np.int64).reshape(1, 1, -1))
    equal = tape.op("Equal", tape.op("Unsqueeze", index, tape.ints([-1])), everyone)
    member = tape.op("Cast", equal, to=1)
    where = tape.op("ArgMax", member, axis=1, keepdims=0)
    return where, tape.op("Greater", tape.reduce("ReduceMax", member, 1), tape.scalar(0.0))


def _unmerge(tape: Tape, stream: ir.Value, cuts: Sequence[Done]) -> ir.Value:
    """Give each token the value of the group it went into: one gather for all cuts."""
    where, _ = _assignment(tape, cuts[-1])
    for done in reversed(cuts[:-1]):
        earlier, _ = _assignment(tape, done)
        where = tape.op("GatherElements", where, earlier, axis=1)
    return gather_rows(tape, stream, where)


def _last_seen(tape: Tape, stream: ir.Value, done: Done) -> ir.Value:
    """Tokens that went on take their new value, dropped ones what they were at the cut."""
    where, held = _assignment(tape, done)
    kept = tape.shape(stream)[1]
    own = tape.constant(np.arange(kept, kept + done.tokens, dtype=np.int64)[None])
    both = tape.op("Concat", stream, done.before, axis=1)
    return gather_rows(tape, both, tape.op("Where", held, where, own))
