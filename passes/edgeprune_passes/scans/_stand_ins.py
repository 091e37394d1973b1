"""Shapes behind a loop, for a folder that infers none there: while it runs, one step stands in for the loop.

The first token goes through a copy of the body in plain sight, and what it gives is repeated for all tokens: wrong
numbers of the right shape. Behind the folder the loop takes its place again, and is told its shapes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.graph import PREFIX, static_shape
from edgeprune.core.tape import add_initializer, fresh_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True, eq=False)
class _StandIn:
    """An output of a loop, and what is read instead of it."""

    loop: ir.Value
    value: ir.Value


@contextmanager
def stand_ins(model: ir.Model) -> Iterator[None]:
    """Let something with a shape that can be inferred stand for each output of a Scan that has none."""
    placed = [
        stand_in
        for node in list(model.graph)
        if node.op_type == "Scan" and any(value.uses() and static_shape(value) is None for value in node.outputs)
        for stand_in in _Writer(model, node).write()
    ]
    outputs = len(model.graph.outputs)
    for stand_in in placed:
        model.graph.outputs.extend((stand_in.loop, stand_in.value))
    yield
    kept = [model.graph.outputs.pop() for _ in range(outputs, len(model.graph.outputs))][::-1]
    for stand_in, loop, value in zip(placed, kept[::2], kept[1::2], strict=True):
        assert loop is stand_in.loop, "a folder leaves the outputs of a loop alone"
        loop.shape, loop.type = value.shape, value.type
        ir.convenience.replace_all_uses_with(value, loop, replace_graph_outputs=True)


class _Writer:
    """Copies the body of one Scan into the graph, for its first token."""

    def __init__(self, model: ir.Model, scan: ir.Node) -> None:
        self._model, self._scan = model, scan
        self._prefix = fresh_name(model, f"{PREFIX}stand-in")
        self._own: dict[ir.Value, ir.Value] = {}

    def write(self) -> list[_StandIn]:
        """Write the copy, and let everything read it."""
        body = self._scan.attributes["body"].as_graph()
        count = self._scan.attributes["num_scan_inputs"].as_int()
        states = len(self._scan.inputs) - count
        sources = [value for value in self._scan.inputs if value is not None]
        axes = self._axes("scan_input_axes", count)
        self._own = dict(zip(body.inputs, sources[:states], strict=False))
        for inner, source, axis in zip(body.inputs[states:], sources[states:], axes, strict=True):
            self._own[inner] = self._op("Gather", [source, self._ints(0)], axis=axis)
        for value in body.initializers.values():
            if value.const_value is not None:
                self._own[value] = add_initializer(self._model, value.const_value.numpy(), self._name("constant"))
        for node in body:
            self._copy(node)
        return self._collected(body, states, sources[states], axes[0])

    def _collected(self, body: ir.Graph, states: int, source: ir.Value, axis: int) -> list[_StandIn]:
        every = [_StandIn(value, self._seen(body.outputs[i])) for i, value in enumerate(self._scan.outputs[:states])]
        shape = self._op("Shape", [source])
        length = self._op("Gather", [shape, self._ints([axis])], axis=0)
        indices = self._op("ConstantOfShape", [length], value=ir.tensor(np.zeros(1, np.int64)))
        axes = self._axes("scan_output_axes", len(body.outputs) - states)
        for inner, outer, own in zip(body.outputs[states:], self._scan.outputs[states:], axes, strict=True):
            one = self._op("Unsqueeze", [self._seen(inner), self._ints([own])])
            every.append(_StandIn(outer, self._op("Gather", [one, indices], axis=own)))
        used = [found for found in every if found.loop.uses() or found.loop.is_graph_output()]
        for found in used:
            ir.convenience.replace_all_uses_with(found.loop, found.value, replace_graph_outputs=True)
        return used

    def _copy(self, node: ir.Node) -> None:
        inputs = [None if value is None else self._seen(value) for value in node.inputs]
        copy = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs))
        self._place(copy)
        self._own.update(zip(node.outputs, copy.outputs, strict=True))

    def _seen(self, value: ir.Value) -> ir.Value:
        return self._own.get(value, value)

    def _op(self, op_type: str, inputs: Sequence[ir.Value], **attributes: object) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes=attributes)  # type: ignore[arg-type]
        self._place(node)
        return node.outputs[0]

    def _place(self, node: ir.Node) -> None:
        node.name = self._name(node.op_type)
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}_{index}"
        self._model.graph.insert_before(self._scan, node)

    def _ints(self, numbers: int | list[int]) -> ir.Value:
        return add_initializer(self._model, np.asarray(numbers, np.int64), self._name("constant"))

    def _name(self, what: str) -> str:
        return fresh_name(self._model, f"{self._prefix}/{what}")

    def _axes(self, name: str, count: int) -> list[int]:
        return list(self._scan.attributes[name].as_ints()) if name in self._scan.attributes else [0] * count
