"""Lists of values, one a token, that a tracer wrote one after the other: turned back into one value of a loop's body.

A list is the same value for every token, or one token each of one sequence, or what one operator makes of such lists.
Each list is walked once, so the work is linear in the nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.graph import constant_of, static_shape
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._reads import Read, read_of

if TYPE_CHECKING:
    from collections.abc import Sequence

# A step is a handful of operators deep; what is deeper is a network that was taken for one.
_DEEPEST = 64


class Roller:
    """The body of a loop, grown from lists of values.

    Args:
        prefix: of all names.
        states: the state after each step.
        from_zero: the first state is what is added, and nothing else; lists of decays are one shorter then.
    """

    def __init__(self, prefix: str, states: Sequence[ir.Value], *, from_zero: bool = False) -> None:
        self.before = ir.Value(name=f"{prefix}/h")
        self.after = ir.Value(name=f"{prefix}/state")
        self.nodes: list[ir.Node] = []
        self.reads: dict[ir.Value, list[Read]] = {}
        self.prefix = prefix
        self._states = list(states)
        self._others = set(states[1:] if from_zero else states)
        self._known: dict[tuple[int, ...], ir.Value] = {tuple(id(value) for value in states): self.after}

    def roll(self, values: Sequence[ir.Value], depth: int = 0) -> ir.Value:
        """The one value of the body that stands for a list.

        Raises:
            DeclinedError: if a step differs from the others, or reads the state of another step.
        """
        key = tuple(id(value) for value in values)
        if key not in self._known:
            self._known[key] = self._rolled(values, depth)
        return self._known[key]

    def _rolled(self, values: Sequence[ir.Value], depth: int) -> ir.Value:
        first = values[0]
        if all(value is first for value in values):
            return first
        if any(value in self._others for value in values):
            raise DeclinedError(first, "a step depends on the state of another step otherwise than by a product")
        if _same_constant(values):
            return first
        reads = [read_of(value) for value in values]
        found = [read for read in reads if read is not None and reads[0] is not None and read.is_beside(reads[0])]
        if len(found) == len(values) and len({read.index for read in found}) > 1:
            return self._read(found)
        return self._operator(values, depth)

    def _read(self, reads: list[Read]) -> ir.Value:
        if len(reads) < len(self._states):
            reads = [_one_before(reads), *reads]
        inner = ir.Value(name=f"{self.prefix}/token_{len(self.reads)}", type=reads[0].source.type)
        self.reads[inner] = reads
        if not reads[0].keeps:
            return inner
        kept = self.write("Unsqueeze", [inner, self.axis(reads[0].axis)])
        kept.type = reads[0].source.type
        return kept

    def axis(self, number: int) -> ir.Value:
        """A literal axis."""
        tensor = ir.tensor(np.array([number]), name=f"{self.prefix}/axis_{len(self.nodes)}")
        node = ir.node("Constant", [], attributes={"value": tensor}, name=tensor.name)
        value = node.outputs[0]
        value.name, value.const_value, value.dtype, value.shape = tensor.name, tensor, tensor.dtype, ir.Shape([1])
        self.nodes.append(node)
        return value

    def close(self, operands: Sequence[ir.Value]) -> None:
        """Write the sum that the state becomes."""
        self.nodes.append(ir.Node("", "Add", operands, outputs=[self.after], name=f"{self.prefix}/Add"))

    def _operator(self, values: Sequence[ir.Value], depth: int) -> ir.Value:
        made = [value.producer() for value in values]
        nodes = [node for node in made if node is not None]
        if depth > _DEEPEST or len(nodes) < len(values) or not all(_alike(node, nodes[0]) for node in nodes):
            raise DeclinedError(values[0], "the steps of the unrolled recurrence are not alike")
        operands: list[ir.Value | None] = []
        for index, operand in enumerate(nodes[0].inputs):
            column = [node.inputs[index] for node in nodes]
            present = [value for value in column if value is not None]
            if operand is not None and len(present) < len(column):
                raise DeclinedError(values[0], "the steps of the unrolled recurrence are not alike")
            operands.append(None if operand is None else self.roll(present, depth + 1))
        return self.write(nodes[0].op_type, operands, nodes[0], like=values[0])

    def write(
        self,
        op_type: str,
        operands: Sequence[ir.Value | None],
        node: ir.Node | None = None,
        like: ir.Value | None = None,
    ) -> ir.Value:
        """A node of the body; attributes are those of `node`, the type is that of `like`."""
        name = f"{self.prefix}/{op_type}_{len(self.nodes)}"
        attributes = list(node.attributes.values()) if node is not None else []
        written = ir.Node(node.domain if node is not None else "", op_type, operands, attributes, name=name)
        value = written.outputs[0]
        value.name = name
        if like is not None:
            value.shape, value.type = like.shape, like.type
        self.nodes.append(written)
        return value


def _one_before(reads: list[Read]) -> Read:
    # The token that a first step would have read, had it multiplied anything.
    first, second = reads[:2]
    index = 2 * first.index - second.index
    shape = static_shape(first.source)
    if index < 0 or (shape is not None and index >= shape[first.axis]):
        raise DeclinedError(first.source, "the first step of the unrolled recurrence has no decay to read")
    return Read(first.source, first.axis, index, first.keeps)


def _same_constant(values: Sequence[ir.Value]) -> bool:
    first = constant_of(values[0])
    if first is None:
        return False
    arrays = [constant_of(value) for value in values[1:]]
    return all(a is not None and a.dtype == first.dtype and np.array_equal(a, first) for a in arrays)


def _alike(node: ir.Node, other: ir.Node) -> bool:
    return (node.op_type, node.domain, len(node.inputs), len(node.outputs)) == (
        other.op_type,
        other.domain,
        len(other.inputs),
        1,
    ) and node.attributes == other.attributes
