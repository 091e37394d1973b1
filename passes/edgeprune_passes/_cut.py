"""The one surgery: shorten the token axis behind a value, and everything that must follow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeprune.core.errors import PassError
from edgeprune.core.flow.call import Companion
from edgeprune.core.flow.engine import run_flow
from edgeprune.core.flow.labels import Label, Resize, Segment
from edgeprune.core.tape import clone_constant
from edgeprune_passes._take import Taker

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from edgeprune.core.flow.engine import Flow


def relabel(label: Label, tokens: int) -> Label:
    """The same axes, with the whole stream of the present length."""
    found = (label.tokens_at(i) for i in range(len(label.axes)))
    axes = (
        axis if own is None else (replace(own, segments=(Segment(0, tokens),)),)
        for axis, own in zip(label.axes, found, strict=True)
    )
    return Label(tuple(axes))


def replace_input(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    """Let one node read another value, wherever it read the old one."""
    for i, operand in enumerate(node.inputs):
        if operand is old:
            node.replace_input_with(i, new)


def propagate(
    model: ir.Model, seeds: Mapping[ir.Value, Label], resize: Resize, index: ir.Value, *, batch: int, prefix: str
) -> Flow:
    """Shorten everything behind `seeds`, which have the new length already.

    Args:
        model: the graph.
        seeds: shortened values, with labels that still count the old tokens.
        resize: the change of length.
        index: int64 [B, K'], what was kept.
        batch: B.
        prefix: first part of the names of what is written.

    Returns:
        The flow that was followed.

    Raises:
        PassError: if the tokens reach a node that does not let them through; callers restore before such nodes.
    """
    nodes = list(model.graph)
    flow = run_flow(nodes, seeds, resize)
    if flow.refusals:
        refusal = next(iter(flow.refusals.values()))
        msg = f"tokens were cut in front of a node that needs them all: {refusal}"
        raise PassError(msg, hint="this is a bug in edgeprune; please report it with the model's architecture")
    for value, label in flow.labels.items():
        if value not in seeds and label.token_axes:
            value.shape = ir.Shape(resize.shape(label))
    taker = Taker(model, index, resize, batch, prefix)
    for node in nodes:
        for edit in flow.edits.get(node, ()):
            if isinstance(edit, Companion):
                taker.companion(node, edit)
            else:
                node.replace_input_with(edit.index, _own_literal(model, node, edit.index, edit.values))
    return flow


def _own_literal(model: ir.Model, node: ir.Node, index: int, values: np.ndarray) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return clone_constant(model, value, values)
