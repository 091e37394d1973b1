"""What one step does to the state: h' = a * h + b, read off the operators between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.core.graph import downstream
from edgeprune_passes.scans._declined import DeclinedError

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The factors of a and the terms of b, values of one step."""

    decay: tuple[ir.Value, ...]
    added: tuple[ir.Value, ...]


def split_state(before: ir.Value, after: ir.Value) -> Step:
    """Take the step apart.

    Raises:
        DeclinedError: if the state goes through anything but products and sums.
    """
    moved = downstream([before])
    decay: list[ir.Value] = []
    added: list[ir.Value] = []
    value = after
    while value is not before:
        node = value.producer()
        if node is None or node not in moved:
            raise DeclinedError(after, "the state after a step does not depend on the state before it")
        inputs = [v for v in node.inputs if v is not None]
        states = [v for v in inputs if v is before or v.producer() in moved]
        if len(states) != 1 or node.op_type not in {"Add", "Mul", "Identity", "Cast"}:
            raise DeclinedError(node, f"the state goes through {node.op_type}: the recurrence is not linear by channel")
        others = [v for v in inputs if v is not states[0]]
        if node.op_type == "Add":
            if decay:
                raise DeclinedError(node, "what is added to the state decays in the same step")
            added += others
        elif node.op_type == "Cast" and states[0].dtype != value.dtype:
            raise DeclinedError(node, "the state changes its type")
        else:
            decay += others
        value = states[0]
    return Step(tuple(decay), tuple(added))
