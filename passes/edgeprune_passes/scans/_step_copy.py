"""The body of a Loop written anew, in which tokens come in instead of being picked by number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.tape import add_initializer, fresh_name
from edgeprune_passes.scans._counting import Numbers, number_of
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._reads import Read, read_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class StepCopy:
    """Copies what the wanted values of a body depend on.

    Args:
        model: what the loop is in; what no step changes is written there, before the loop.
        loop: the node.
        prefix: of all names.
        fixed: values that the loop carries and never changes, with what they are outside.
        numbers: of each step.
    """

    def __init__(
        self,
        model: ir.Model,
        loop: ir.Node,
        prefix: str,
        fixed: Mapping[ir.Value, ir.Value],
        numbers: Sequence[Numbers],
    ) -> None:
        self.prefix = prefix
        self.nodes: list[ir.Node] = []
        self.reads: dict[ir.Value, list[Read]] = {}
        self._model, self._loop, self._numbers = model, loop, numbers
        self._body = loop.attributes["body"].as_graph()
        self._own: dict[ir.Value, ir.Value] = dict(fixed)
        self._inside: set[ir.Value] = set()

    def state(self, value: ir.Value) -> ir.Value:
        """A value that is carried on."""
        return self._enter(value, value)

    def of(self, value: ir.Value) -> ir.Value:
        """The copy of a value of the body; what is computed outside stays what it is.

        Raises:
            DeclinedError: if a step uses its own number otherwise than to pick a token.
        """
        stack = [value]
        while stack:
            top = stack[-1]
            if top in self._own or self._is_outside(top):
                stack.pop()
                continue
            node = top.producer()
            if node is None:
                self._literal(top)
                continue
            first = node.inputs[0] if node.inputs else None
            if first is not None and first not in self._own and not self._is_outside(first):
                stack.append(first)
                continue
            reads = self._reads_of(node)
            if reads:
                self._read(top, reads)
                continue
            missing = [v for v in node.inputs if v is not None and v not in self._own and not self._is_outside(v)]
            stack += missing
            if not missing:
                self._copy(node)
        return self._own.get(value, value)

    def output(self, value: ir.Value, axis: int | None) -> ir.Value:
        """The copy of a value that is collected, without the axis that it has for the tokens."""
        own = self.of(value)
        if axis is None:
            return self._write(ir.node("Identity", [own]), value)
        return self._write(ir.node("Squeeze", [own, self._axis(axis)]), None)

    def _is_outside(self, value: ir.Value) -> bool:
        """Whether no step changes it: only nodes and inputs of either body are inside."""
        if value in self._inside:
            return False
        node = value.producer()
        if node is not None:
            return node.graph is not None and node.graph is not self._body
        return value not in self._body.inputs and value not in self._body.initializers.values()

    def _literal(self, value: ir.Value) -> None:
        if value.const_value is None:
            raise DeclinedError(value, "a step of the loop uses its own number otherwise than to pick a token")
        name = fresh_name(self._model, f"{self.prefix}/constant")
        self._own[value] = add_initializer(self._model, value.const_value.numpy(), name)

    def _reads_of(self, node: ir.Node) -> list[Read]:
        """The token that each step picks; empty where none is picked by number."""
        source = node.inputs[0] if node.inputs else None
        source = None if source is None else self._own.get(source, source)
        if source is None or node.op_type not in {"Gather", "Slice", "SequenceAt"} or not self._is_outside(source):
            return []
        if all(value is None or self._is_outside(value) for value in node.inputs[1:]):
            return []
        found = []
        for known in self._numbers:
            operands = [number_of(value, known) for value in node.inputs[1:]]
            read = None if any(operand is None for operand in operands) else read_by(node, source, operands)  # type: ignore[arg-type]
            if read is None:
                return []
            found.append(read)
        return found if len({read.index for read in found}) > 1 else []

    def _read(self, value: ir.Value, reads: list[Read]) -> None:
        inner = self._enter(value, None)
        self.reads[inner] = reads
        if reads[0].keeps:
            self._own[value] = self._write(ir.node("Unsqueeze", [inner, self._axis(reads[0].axis)]), value)

    def _enter(self, value: ir.Value, like: ir.Value | None) -> ir.Value:
        inner = ir.Value(name=f"{self.prefix}/in_{len(self._own)}", type=value.type)
        inner.shape = like.shape if like is not None else None
        self._own[value] = inner
        self._inside.add(inner)
        return inner

    def _copy(self, node: ir.Node) -> None:
        outputs, node = node.outputs, _without_choice(node)
        missing = [v for v in node.inputs if v is not None and v not in self._own and not self._is_outside(v)]
        for value in missing:
            self.of(value)
        inputs = [None if v is None else self._own.get(v, v) for v in node.inputs]
        copy = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs))
        self._place(copy, outside=all(value is None or self._is_outside(value) for value in inputs))
        for old, new in zip(outputs, copy.outputs, strict=True):
            new.type, new.const_value = old.type, old.const_value
            self._own[old] = new

    def _axis(self, number: int) -> ir.Value:
        return self._constant(ir.tensor(np.array([number]), name=f"{self.prefix}/axis"))

    def _constant(self, tensor: ir.TensorProtocol) -> ir.Value:
        value = self._write(ir.node("Constant", [], attributes={"value": tensor}), None)
        value.const_value, value.dtype, value.shape = tensor, tensor.dtype, ir.Shape(list(tensor.shape.numpy()))
        return value

    def _write(self, node: ir.Node, like: ir.Value | None) -> ir.Value:
        self._place(node)
        node.outputs[0].type = like.type if like is not None else None
        return node.outputs[0]

    def _place(self, node: ir.Node, *, outside: bool = False) -> None:
        node.name = fresh_name(self._model, f"{self.prefix}/{node.op_type}")
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}/{index}"
        if outside:
            self._model.graph.insert_before(self._loop, node)
        else:
            self.nodes.append(node)


def _without_choice(node: ir.Node) -> ir.Node:
    # TorchScript hides a Squeeze in an If, in case that the axis is not of size one: then it fails now, loudly.
    graphs = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    if not graphs:
        return node
    steps = [next(iter(graph), None) for graph in graphs if len(graph) == 1]
    kinds = {step.op_type: step for step in steps if step is not None}
    squeeze, same = kinds.get("Squeeze"), kinds.get("Identity")
    if node.op_type != "If" or squeeze is None or same is None or squeeze.inputs[0] is not same.inputs[0]:
        raise DeclinedError(node, f"{node.op_type} inside the loop is not known")
    return squeeze
