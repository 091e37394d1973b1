"""Numbers that a loop's body computes from the number of the step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.core.graph import constant_of
from edgeprune_passes.scans._declined import DeclinedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx_ir as ir

    from edgeprune_passes.scans._carried import Carried

Numbers = dict["ir.Value", np.ndarray]


def count_steps(number: ir.Value, counters: Sequence[Carried], steps: int) -> list[Numbers]:
    """What is known in each step: its number, and what is counted along.

    Raises:
        DeclinedError: if a carried number does not follow from the one before.
    """
    every: list[Numbers] = []
    carried = [constant_of(one.initial) for one in counters]
    for step in range(steps):
        known: Numbers = {number: np.array(step, dtype=np.int64)}
        known |= {one.before: value for one, value in zip(counters, carried, strict=True) if value is not None}
        every.append(known)
        carried = [number_of(one.after, known) for one in counters]
        if any(value is None for value in carried):
            raise DeclinedError(number, "a number that the loop carries does not follow from the one before")
    return every


def number_of(value: ir.Value | None, known: Numbers) -> np.ndarray | None:
    """A value of the body in one step; None where it does not follow from what is known.

    Args:
        value: of the body.
        known: values of this step; what is computed is added.
    """
    if value is None:
        return None
    if value not in known:
        array = constant_of(value)
        if array is None:
            array = _computed(value, known)
        if array is None:
            return None
        known[value] = array
    return known[value]


def _computed(value: ir.Value, known: Numbers) -> np.ndarray | None:
    node = value.producer()
    rule = _RULES.get(node.op_type) if node is not None else None
    if node is None or rule is None:
        return None
    operands = [number_of(operand, known) for operand in node.inputs]
    present = [operand for operand in operands if operand is not None]
    # Index arithmetic is small; arrays of the model are not computed here.
    if len(present) < len(operands) or any(operand.size > 8 or operand.dtype.kind not in "iub" for operand in present):
        return None
    return np.asarray(rule(node.attributes, *present))


def _concat(attributes: Mapping[str, ir.Attr], *parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts, axis=attributes["axis"].as_int())


_RULES: dict[str, Callable[..., Any]] = {
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Neg": lambda _, a: -a,
    "Identity": lambda _, a: a,
    "Cast": lambda _, a: a,
    "Unsqueeze": lambda _, a, axes: np.expand_dims(a, tuple(axes.reshape(-1).tolist())),
    "Squeeze": lambda _, a, *_axes: a.reshape(()) if a.size == 1 else a,
    "Reshape": lambda _, a, shape: a.reshape(shape),
    "Concat": _concat,
    "And": lambda _, a, b: a & b,
    "Less": lambda _, a, b: a < b,
}
