"""Small edits of the graph that every spelling needs."""

from __future__ import annotations

import onnx_ir as ir


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let everything read `new` instead of `old`; a graph output keeps its name."""
    if old.is_graph_output():
        name = old.name
        old.name, new.name = f"{name}/raised", name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def let_go(loop: ir.Node) -> None:
    """Let the body of a loop that is on its way out read nothing of the graph any more."""
    for attribute in loop.attributes.values():
        for node in list(attribute.as_graph()) if attribute.type.name == "GRAPH" else ():
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)


def above_identity(value: ir.Value) -> ir.Value:
    """What an Identity, or several, repeat."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value
