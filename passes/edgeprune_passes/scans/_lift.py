"""A loop's body computed for all tokens at once: every operator with a token axis in front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of, static_shape
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._lift_rules import RULES, attributes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx_ir as ir

    from edgeprune.core.tape import Tape
    from edgeprune_passes.scans._lift_rules import Lifted


class Lifter:
    """Writes the values of a body for all tokens.

    Args:
        tape: where to write.
        bulk: values of the body that differ by token, each with what it is for all tokens, [T, ...].
        inside: whether a node belongs to the body; what any other node computes is the same for every token.
        tokens: T.
    """

    def __init__(
        self, tape: Tape, bulk: Mapping[ir.Value, ir.Value], inside: Callable[[ir.Node], bool], tokens: int
    ) -> None:
        self.tape, self.tokens, self._inside = tape, tokens, inside
        self._bulk: dict[ir.Value, ir.Value | None] = dict(bulk)
        self._hoisted: dict[ir.Value, ir.Value] = {}

    def lift(self, value: ir.Value, rank: int | None = None) -> ir.Value:
        """The value for all tokens, [T, ...]; one that is the same for every token stays without T.

        Args:
            value: of the body.
            rank: axes that it is to have behind the tokens.

        Raises:
            DeclinedError: if an operator of the body is not known.
        """
        found = self._of(value)
        if found is None:
            return self.still(value)
        return found if rank is None else self._aligned(found, rank)

    def _of(self, value: ir.Value) -> ir.Value | None:
        """The lifted value; None if it is the same for every token."""
        stack = [value]
        while stack:
            top = stack[-1]
            node = top.producer()
            if top in self._bulk:
                stack.pop()
                continue
            if node is None or not self._inside(node):
                self._bulk[top] = None
                continue
            missing = [v for v in node.inputs if v is not None and v not in self._bulk]
            if missing:
                stack += missing
                continue
            self._write(node)
        return self._bulk[value]

    def still(self, value: ir.Value) -> ir.Value:
        """A value that is the same for every token, as the outer graph has it."""
        if value in self._hoisted:
            return self._hoisted[value]
        array = constant_of(value)
        if array is None or value.graph is self.tape.model.graph:
            return value
        return self.tape.constant(array)

    def _aligned(self, own: ir.Value, rank: int) -> ir.Value:
        lacking = rank - (len(self.tape.shape(own)) - 1)
        return self.tape.op("Unsqueeze", own, self.tape.ints(range(1, lacking + 1))) if lacking > 0 else own

    def _write(self, node: ir.Node) -> None:
        lifted = [None if v is None else self._bulk[v] for v in node.inputs]
        if all(v is None for v in lifted):
            self._write_still(node)
            return
        rule = RULES.get(node.op_type) if node.domain == "" else None
        if rule is None or len(node.outputs) != 1:
            raise DeclinedError(node, f"{node.op_type} in the loop is not known")
        self._bulk[node.outputs[0]] = rule(self, node, lifted)

    def _write_still(self, node: ir.Node) -> None:
        # A node that reads no token is written once, outside.
        if len(node.outputs) != 1 or node.domain != "":
            raise DeclinedError(node, f"{node.op_type} in the loop is not known")
        value = node.outputs[0]
        self._bulk[value] = None
        if constant_of(value) is None:
            inputs = [None if v is None else self.still(v) for v in node.inputs]
            self._hoisted[value] = self.tape.op(node.op_type, *inputs, **attributes_of(node))

    def operand(self, node: ir.Node, index: int, lifted: Lifted, rank: int) -> ir.Value | None:
        """An operand with all axes of the result behind the tokens."""
        value, own = node.inputs[index], lifted[index]
        if value is None:
            return None
        if own is None:
            return self.still(value)
        return self._aligned(own, rank)

    def rank(self, node: ir.Node, index: int, lifted: Lifted) -> int:
        """Axes of an operand in the body.

        Raises:
            DeclinedError: if they are not known.
        """
        value, own = node.inputs[index], lifted[index]
        if own is not None:
            return len(self.tape.shape(own)) - 1
        shape = static_shape(value) if value is not None else ()
        if shape is None:
            raise DeclinedError(node, f"an operand of {node.op_type} has no static shape")
        return len(shape)
