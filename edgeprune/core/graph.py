"""Small readers of the graph: names, shapes, constants, uses. No edits."""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx_ir as ir

PREFIX = "edgeprune/"
_LOST = re.compile(re.escape(PREFIX) + r"attention-sublayer/(\d+)/")


def name_of(thing: ir.Node | ir.Value) -> str:
    """Name of a node or value; nodes without one are named by their first output."""
    if thing.name:
        return thing.name
    outputs = getattr(thing, "outputs", ())
    return str(outputs[0].name) if outputs else "?"


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """Shape of a value if every dimension is known."""
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(dim) for dim in value.shape.numpy())


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """The array of a constant value, else None. Graph inputs with a default are no constants."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return np.asarray(value.const_value.numpy())


def consumers(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that read a value, each once, in the order of use."""
    seen: set[int] = set()
    for use in value.uses():
        if id(use.node) not in seen:
            seen.add(id(use.node))
            yield use.node


def captured(node: ir.Node) -> Iterator[ir.Value]:
    """Values that the node's subgraphs read from outside; they are not among its inputs."""
    for attribute in node.attributes.values():
        graphs = [attribute.value] if attribute.type.name == "GRAPH" else ()
        for graph in attribute.value if attribute.type.name == "GRAPHS" else graphs:
            inner = list(graph.all_nodes())
            own = {*graph.inputs, *graph.initializers.values(), *(v for n in inner for v in n.outputs)}
            yield from (v for n in inner for v in n.inputs if v is not None and v not in own)
            yield from (v for v in graph.outputs if v not in own)


def producers(node: ir.Node) -> list[ir.Node]:
    """Nodes that compute the inputs of a node, in the order of its inputs."""
    found = (value.producer() for value in node.inputs if value is not None)
    return [producer for producer in found if producer is not None]


def users(node: ir.Node) -> list[ir.Node]:
    """Nodes that read an output of a node, once for each use."""
    return [use.node for value in node.outputs for use in value.uses()]


def downstream(values: Iterable[ir.Value]) -> set[ir.Node]:
    """All nodes that depend on one of the values."""
    seen: set[ir.Node] = set()
    stack = list(values)
    while stack:
        for node in consumers(stack.pop()):
            if node not in seen:
                seen.add(node)
                stack.extend(node.outputs)
    return seen


def upstream(value: ir.Value) -> set[ir.Node]:
    """All nodes that a value depends on."""
    seen: set[ir.Node] = set()
    stack = [value.producer()]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack.extend(v.producer() for v in node.inputs if v is not None)
    return seen


def block_numbers(nodes: Iterable[ir.Node]) -> Iterator[int]:
    """Indices of the blocks that have an attention: those whose attention edgeprune took out are passed over."""
    lost = {int(found.group(1)) for node in nodes if (found := _LOST.match(node.name or ""))}
    return (number for number in count() if number not in lost)
