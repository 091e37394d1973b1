"""Bring the tokens back, before a head or an output that needs them all: the mechanism that all modes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeprune.core.errors import PlanError
from edgeprune.core.flow.labels import Segment, Tokens
from edgeprune.core.graph import PREFIX, consumers, downstream, upstream
from edgeprune.core.tape import Tape, fresh_name
from edgeprune_passes._cut import replace_input
from edgeprune_passes._layout import from_stream, to_stream
from edgeprune_passes.registry import make_restore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeprune.core.flow.labels import Label
    from edgeprune.core.plan import Restore
    from edgeprune_passes.restores._done import Done

# What a restored stream is called: proofs read the mode and the dense stream off it.
RESTORED = f"{PREFIX}restored"


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
    model: ir.Model, node: ir.Node, label: Label, history: Sequence[Done], batch: int, restore: Restore = "auto"
) -> None:
    """Replace a Restore node by plain operators that undo, in reverse order, the cuts above it.

    Args:
        model: the graph.
        node: the Restore node.
        label: of its input, with the tokens of the dense model.
        history: the cuts that were made.
        batch: B.
        restore: name of a mode; `auto` unmerges where every cut only merged, and else takes `residual-delta`.

    Raises:
        PlanError: if the mode refuses these cuts.
    """
    value = node.inputs[0]
    assert value is not None
    above = upstream(value)
    # A cut that kept everything is undone already: a mode that averages would change it.
    cuts = [done for done in history if done.after.producer() in above and not _whole(done)]
    mode = make_restore(mode_for(restore, cuts))
    refused = mode.refuses(cuts)
    if refused is not None:
        msg = f"`{value.name}` cannot be restored by {mode.name}: {refused}"
        raise PlanError(msg, hint="choose a strategy that only merges, such as tome, or --restore auto")
    name = node.name or "edgeprune/restore"
    tape = Tape(model, before=node, prefix=name)
    stream = _to_stream(tape, value, label, batch)
    if cuts:
        stream = mode.bring_back(tape, stream, cuts)
        stream.name = fresh_name(model, f"{RESTORED}/{mode.name}/{name.removeprefix(f'{PREFIX}restore/')}")
    full = from_stream(tape, stream, label, batch)
    if node.outputs[0].is_graph_output():
        full = tape.op("Identity", full)
        full.name, node.outputs[0].name = node.outputs[0].name, f"{full.name}/gone"
    ir.convenience.replace_all_uses_with(node.outputs[0], full, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def mode_for(restore: Restore, cuts: Sequence[Done]) -> str:
    """The mode that a word of the plan stands for.

    On the saliency ViT `residual-delta` was the best of all modes for every strategy that drops tokens.
    """
    if restore != "auto":
        return restore
    return "unmerge" if all(done.selection.covers for done in cuts) else "residual-delta"


def _whole(done: Done) -> bool:
    shape = done.selection.index.shape
    return shape is not None and shape[1] == done.tokens


def _to_stream(tape: Tape, value: ir.Value, label: Label, batch: int) -> ir.Value:
    """The shortened stream as [B, K, D]: the label still counts the tokens of the dense model."""
    kept = tape.shape(value)[label.token_axes[0]]
    return to_stream(tape, value, label.with_axis(label.token_axes[0], (Tokens((Segment(0, kept),)),)), batch)
