"""The flow: carry labels through the graph in order, from seeds to wherever they reach or are refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeprune.core.flow.call import Call, Declined, Edit
from edgeprune.core.flow.labels import Grid, Label, Resize, plain_axis
from edgeprune.core.flow.rules import RULES
from edgeprune.core.graph import captured, downstream, name_of, static_shape
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.scans import is_selective_scan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import onnx_ir as ir


@dataclass(slots=True)
class Flow:
    """Where the labels went.

    Attributes:
        labels: every value that carries tokens, the grid or a statistic of tokens.
        edits: what must change in a node when the tokens get fewer.
        refusals: nodes that do not let the tokens through.
        uncut: nodes that let the tokens through, but only all of them: no cut may stand in front.
        stopped: values behind a refusal: they depend on tokens in a way that is not known.
    """

    labels: dict[ir.Value, Label] = field(default_factory=dict)
    edits: dict[ir.Node, list[Edit]] = field(default_factory=dict)
    refusals: dict[ir.Node, Refusal] = field(default_factory=dict)
    uncut: dict[ir.Node, Refusal] = field(default_factory=dict)
    stopped: set[ir.Value] = field(default_factory=set)

    def tokens_on(self, value: ir.Value) -> tuple[int, ...]:
        """Token axes of a value, empty if it has none."""
        label = self.labels.get(value)
        return label.token_axes if label is not None else ()

    def pools(self) -> list[ir.Node]:
        """Nodes that make a statistic over tokens."""
        pooled = (value.producer() for value, label in self.labels.items() if label.pooled)
        return [
            node for node in pooled if node is not None and any(self.tokens_on(v) for v in node.inputs if v is not None)
        ]


def run_flow(nodes: Iterable[ir.Node], seeds: Mapping[ir.Value, Label], resize: Resize) -> Flow:
    """Carry the labels of `seeds` forward through `nodes`, which are in topological order.

    A node that needs every token is let pass in front of attention or a scan, as a part of the embedding; behind it
    refuses.
    """
    nodes = list(nodes)
    flow = _run(nodes, seeds, resize)
    mixes = [n for n in nodes if n.op_type == "Softmax" or is_selective_scan(n)] if flow.uncut else []
    attended = [node for node in mixes if node.outputs[0] in flow.labels]
    late = flow.uncut.keys() & downstream(node.outputs[0] for node in attended)
    return _run(nodes, seeds, resize, late) if late else flow


def _run(
    nodes: Iterable[ir.Node], seeds: Mapping[ir.Value, Label], resize: Resize, late: Collection[ir.Node] = ()
) -> Flow:
    flow = Flow(labels=dict(seeds))
    for node in nodes:
        if any(v in flow.stopped or v in flow.labels for v in captured(node)):
            reason = f"tokens are read inside a subgraph ({node.op_type} node)"
            flow.refusals[node] = Refusal(RefusalCode.NO_RULE, reason, (name_of(node),))
            flow.stopped.update(node.outputs)
        elif any(v in flow.stopped for v in node.inputs if v is not None):
            flow.stopped.update(v for v in node.outputs if v not in seeds)
        elif any(v in flow.labels for v in node.inputs if v is not None):
            _visit(flow, node, seeds, resize, late)
    return flow


def _visit(
    flow: Flow, node: ir.Node, seeds: Mapping[ir.Value, Label], resize: Resize, late: Collection[ir.Node]
) -> None:
    labels = tuple(flow.labels.get(v) if v is not None else None for v in node.inputs)
    call = Call(node, labels, resize, late=node in late)
    try:
        results = _apply_rule(call)
    except Declined as declined:
        flow.refusals[node] = declined.refusal
        flow.stopped.update(v for v in node.outputs if v not in seeds)
        return
    if call.edits:
        flow.edits[node] = call.edits
    if call.uncut is not None:
        flow.uncut[node] = call.uncut
    for value, label in zip(node.outputs, results, strict=False):
        if label.moves and value not in seeds:
            flow.labels[value] = label


def _apply_rule(call: Call) -> list[Label]:
    """Labels of the node's outputs, checked against their shapes.

    Raises:
        Declined: by the rule, or for want of one, or because the rule disagrees with the graph's shapes.
    """
    node = call.node
    operator = node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}::{node.op_type}"
    rule = RULES.get(operator)
    if all(label is None or not (label.token_axes or label.axes_of(Grid)) for label in call.labels):
        return [_statistic(value) for value in call.node.outputs]
    if rule is None:
        raise Declined(
            Refusal(RefusalCode.NO_RULE, f"the operator {operator} has no rule for tokens", (name_of(call.node),))
        )
    results = rule(call)
    if any(map(_is_statistic, call.labels)) and any(label.token_axes for label in results):
        call.decline(RefusalCode.POOLED_REENTERS, "a statistic over all tokens meets the tokens again")
    for value, label in zip(node.outputs, results, strict=False):
        shape = static_shape(value)
        if shape is not None and label.shape != shape:
            reason = f"the rule of {operator} gives {list(label.shape)}, the graph says {list(shape)}"
            raise Declined(Refusal(RefusalCode.NO_RULE, reason, (name_of(node),)))
    return results


def _is_statistic(label: Label | None) -> bool:
    return label is not None and label.pooled and not label.token_axes


def _statistic(value: ir.Value) -> Label:
    """Label of a value that depends on a statistic of tokens, but carries none."""
    return Label(tuple(plain_axis(dim) for dim in static_shape(value) or ()), pooled=True)
