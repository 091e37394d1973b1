"""A graph as ONNX text in which only what matters differs: for cards, and for people who compare two graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterable


def canonical_text(model: ir.Model) -> str:
    """The graph in ONNX's textual form with inner names replaced by numbers, in order.

    Names of inputs and outputs stay. Names of nodes, shapes of inner values and metadata are left out.
    """
    proto = ir.to_proto(model)
    graph = proto.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    names = _numbered("c", (tensor.name for tensor in graph.initializer), kept)
    names |= _numbered("v", (name for node in graph.node for name in node.output), kept)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        node.ClearField("name")
        del node.metadata_props[:]
    for tensor in graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), names.get(tensor.name, tensor.name))
        )
    del graph.value_info[:], proto.metadata_props[:], graph.metadata_props[:]
    bare = onnx.ModelProto(graph=graph, ir_version=proto.ir_version, opset_import=proto.opset_import)
    return str(onnx.printer.to_text(bare))


def _numbered(letter: str, names: Iterable[str], kept: set[str]) -> dict[str, str]:
    inner = [name for name in names if name and name not in kept]
    return {name: f"{letter}{i}" for i, name in enumerate(inner)}
