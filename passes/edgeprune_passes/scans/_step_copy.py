"""The body of a Loop written anew, in which tokens come in instead of being picked by number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune_passes.scans._counting import Numbers, number_of
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._reads import Read, read_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class StepCopy:
    """Copies what the wanted values of a body depend on.

    Args:
        body: of the loop.
        prefix: of all names.
        fixed: values that the loop carries and never changes, with what they are outside.
        numbers: of each step.
    """

    def __init__(
        self, body: ir.Graph, prefix: str, fixed: Mapping[ir.Value, ir.Value], numbers: Sequence[Numbers]
    ) -> None:
        self.prefix = prefix
        self.nodes: list[ir.Node] = []
        self.reads: dict[ir.Value, list[Read]] = {}
        self._body, self._numbers = body, numbers
        self._own: dict[ir.Value, ir.Value] = dict(fixed)

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
        node = value.producer()
        if node is not None:
            return node.graph is not self._body
        return value not in self._body.inputs and value.name not in self._body.initializers

    def _literal(self, value: ir.Value) -> None:
        if value.const_value is None:
            raise DeclinedError(value, "a step of the loop uses its own number otherwise than to pick a token")
        self._own[value] = self._constant(value.const_value)

    def _reads_of(self, node: ir.Node) -> list[Read]:
        """The token that each step picks; empty where none is picked by number."""
        source = node.inputs[0] if node.inputs else None
        source = self._own.get(source, source) if source is not None else None
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
        return inner

    def _copy(self, node: ir.Node) -> None:
        inputs = [None if v is None else self._own.get(v, v) for v in node.inputs]
        copy = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs))
        self._place(copy)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
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

    def _place(self, node: ir.Node) -> None:
        node.name = f"{self.prefix}/{node.op_type}_{len(self.nodes)}"
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}/{index}"
        self.nodes.append(node)
