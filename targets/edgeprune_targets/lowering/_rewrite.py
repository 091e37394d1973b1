"""What every rewrite of this room does: find nodes, write others in their place, under the same outer names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeprune.core.graph import name_of
from edgeprune.core.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Iterator


def nodes_of(model: ir.Model, *op_types: str) -> Iterator[ir.Node]:
    """Nodes of the main graph of these types of the default domain; the graph may be changed meanwhile."""
    yield from [node for node in model.graph if node.op_type in op_types and node.domain == ""]


def tape_before(model: ir.Model, node: ir.Node) -> Tape:
    """A tape that writes in front of a node, under its name: a profile still leads back to it."""
    return Tape(model, before=node, prefix=name_of(node))


def replace(model: ir.Model, node: ir.Node, value: ir.Value) -> None:
    """Let `value` stand for the first output of a node that goes; a graph output keeps its name."""
    old = node.outputs[0]
    if value.shape is None:
        value.shape = old.shape
    if old.is_graph_output():
        value.name, old.name = old.name, f"{value.name}/gone"
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def only_first_output(node: ir.Node) -> bool:
    """Whether nobody reads the others."""
    return not any(value.uses() or value.is_graph_output() for value in node.outputs[1:])


def as_float(tape: Tape, value: ir.Value) -> ir.Value:
    """The value in fp32; itself if it is."""
    return value if value.dtype == ir.DataType.FLOAT else tape.op("Cast", value, to=ir.DataType.FLOAT.value)


def as_type(tape: Tape, value: ir.Value, like: ir.Value) -> ir.Value:
    """The value in the type of another."""
    if like.dtype is None or value.dtype == like.dtype:
        return value
    return tape.op("Cast", value, to=like.dtype.value)


def float_of(node: ir.Node, name: str, default: float) -> float:
    """A float attribute, or ONNX's default for it."""
    return node.attributes[name].as_float() if name in node.attributes else default


def int_of(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or ONNX's default for it."""
    return node.attributes[name].as_int() if name in node.attributes else default


def text_of(node: ir.Node, name: str, default: str) -> str:
    """A string attribute, or ONNX's default for it."""
    return node.attributes[name].as_string() if name in node.attributes else default
