"""From all states down to where they are multiplied by C and summed: y = h . C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import constant_of, consumers, static_shape
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._views import View, below, view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """One contraction of all states.

    Attributes:
        result: what the contraction gives, with the axes that are left.
        columns: what the states are multiplied by.
        letter: the axis that is summed over.
    """

    result: View
    columns: View
    letter: str


def find_readout(states: Sequence[View], sizes: Mapping[str, int]) -> Readout:
    """The one contraction that reads all states, under whichever of their names.

    Raises:
        DeclinedError: if the states are read otherwise.
    """
    found: list[Readout] = []
    stack = list(states)
    while stack:
        seen = stack.pop()
        if seen.value.is_graph_output():
            raise DeclinedError(seen.value, "the states themselves are an output of the model")
        for node in consumers(seen.value):
            moved = below(seen, node, sizes)
            readout = None if moved is not None else _contraction(seen, node, sizes)
            if moved is None and readout is None:
                raise DeclinedError(
                    node, f"the states are read by {node.op_type}, not by a product with C that is summed"
                )
            stack += [moved] if moved is not None else []
            found += [readout] if readout is not None else []
    if len(found) != 1:
        count = "not at all" if not found else f"in {len(found)} places"
        raise DeclinedError(states[0].value, f"the states are read {count}, one readout is expected")
    return found[0]


def _contraction(seen: View, node: ir.Node, sizes: Mapping[str, int]) -> Readout | None:
    if node.op_type == "MatMul":
        return _matmul(seen, node, sizes)
    if node.op_type == "Einsum":
        return _einsum(seen, node, sizes)
    return _weighted_sum(seen, node, sizes) if node.op_type == "Mul" else None


def _matmul(seen: View, node: ir.Node, sizes: Mapping[str, int]) -> Readout | None:
    """States times a column, or a row times states."""
    left, right = node.inputs
    if left is None or right is None or left is right or len(seen.axes) < 2:
        return None
    on_left = left is seen.value
    other = right if on_left else left
    summed = seen.axes[-1] if on_left else seen.axes[-2]
    lead = seen.axes[:-2]
    columns = view(other, (*lead, summed, ()) if on_left else (*lead, (), summed), sizes)
    shape = static_shape(other)
    if columns is None or shape is None or len(shape) < 2 or shape[-1 if on_left else -2] != 1:
        return None
    rest = (*seen.axes[:-1], ()) if on_left else (*lead, (), seen.axes[-1])
    return _readout(view(node.outputs[0], rest, sizes), columns, summed)


def _einsum(seen: View, node: ir.Node, sizes: Mapping[str, int]) -> Readout | None:
    terms, _, result = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    split = terms.split(",")
    inputs = list(node.inputs)
    if len(split) != 2 or inputs.count(seen.value) != 1:
        return None
    mine = inputs.index(seen.value)
    axis_of = dict(zip(split[mine], seen.axes, strict=True))
    summed = [letter for letter in split[mine] if letter not in result]
    other = inputs[1 - mine]
    if other is None or len(summed) != 1 or not set(split[1 - mine]) <= set(axis_of):
        return None
    columns = view(other, [axis_of[letter] for letter in split[1 - mine]], sizes)
    if columns is None:
        return None
    return _readout(view(node.outputs[0], [axis_of[letter] for letter in result], sizes), columns, axis_of[summed[0]])


def _weighted_sum(seen: View, node: ir.Node, sizes: Mapping[str, int]) -> Readout | None:
    """A Mul by C, and a ReduceSum behind it."""
    others = [value for value in node.inputs if value is not seen.value]
    if len(others) != 1 or others[0] is None:
        return None
    product, columns = view(node.outputs[0], seen.axes, sizes), view(others[0], seen.axes, sizes)
    sums = list(consumers(node.outputs[0]))
    if product is None or columns is None or len(sums) != 1 or sums[0].op_type != "ReduceSum":
        return None
    axes = _reduced(sums[0], len(product.axes))
    if axes is None or len(axes) != 1 or node.outputs[0].is_graph_output():
        return None
    keep = "keepdims" not in sums[0].attributes or sums[0].attributes["keepdims"].as_int() == 1
    rest = [() if i in axes else axis for i, axis in enumerate(product.axes) if keep or i not in axes]
    return _readout(view(sums[0].outputs[0], rest, sizes), columns, product.axes[axes[0]])


def _reduced(node: ir.Node, rank: int) -> list[int] | None:
    if "axes" in node.attributes:
        return [axis % rank for axis in node.attributes["axes"].as_ints()]
    array = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if array is None else [int(axis) % rank for axis in np.atleast_1d(array)]


def _readout(result: View | None, columns: View, summed: tuple[str, ...]) -> Readout | None:
    return None if result is None or len(summed) != 1 else Readout(result, columns, summed[0])
