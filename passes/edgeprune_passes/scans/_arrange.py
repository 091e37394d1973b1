"""Write a view's value with its axes in a wanted order, in as few operators as it takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import constant_of, consumers
from edgeprune_passes.scans._views import perm_of, size_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from edgeprune.core.tape import Tape
    from edgeprune_passes.scans._views import Axis, View


def arranged(tape: Tape, seen: View, order: str, sizes: Mapping[str, int]) -> ir.Value:
    """The value with one axis a letter of `order`, in that order.

    A letter that it lacks becomes an axis of size one; one that `order` lacks has size one and goes.
    """
    array = constant_of(seen.value)
    axes = [tuple(letter for letter in axis if letter in order) for axis in seen.axes]
    letters = [letter for axis in axes for letter in axis]
    perm = [letters.index(letter) for letter in order if letter in letters]
    full = [sizes[letter] if letter in letters else 1 for letter in order]
    if array is not None:
        moved = array.reshape([sizes[letter] for letter in letters]).transpose(perm).reshape(full)
        return seen.value if moved.shape == array.shape and perm == sorted(perm) else tape.constant(moved)
    value, shape = seen.value, tape.shape(seen.value)
    if any(len(axis) > 1 for axis in axes):
        value = tape.op("Reshape", value, tape.ints([sizes[letter] for letter in letters]))
    elif perm == sorted(perm) and shape == tuple(full):
        return value
    elif not all(axes):
        value = tape.op("Squeeze", value, tape.ints([i for i, axis in enumerate(axes) if not axis]))
    if perm != sorted(perm):
        value = _transposed_already(value, perm) or tape.op("Transpose", value, perm=perm)
    lacking = [i for i, letter in enumerate(order) if letter not in letters]
    return tape.op("Unsqueeze", value, tape.ints(lacking)) if lacking else value


def _transposed_already(value: ir.Value, perm: list[int]) -> ir.Value | None:
    """What the graph has of it: exports write the same Transpose before a projection."""
    for node in consumers(value):
        if node.op_type == "Transpose" and perm_of(node, len(perm)) == perm and node.graph is value.graph:
            return node.outputs[0]
    return None


def laid_out(tape: Tape, value: ir.Value, order: str, axes: Sequence[Axis], sizes: Mapping[str, int]) -> ir.Value:
    """A value whose axes are `order`, brought to the axes of a view: the way back from `arranged`."""
    letters = [letter for axis in axes for letter in axis]
    gone = [i for i, letter in enumerate(order) if letter not in letters]
    kept = [letter for letter in order if letter in letters]
    perm = [kept.index(letter) for letter in letters]
    if gone:
        value = tape.op("Squeeze", value, tape.ints(gone))
    if perm != sorted(perm):
        value = tape.op("Transpose", value, perm=perm)
    if any(len(axis) > 1 for axis in axes):
        return tape.op("Reshape", value, tape.ints([size_of(axis, sizes) for axis in axes]))
    lacking = [i for i, axis in enumerate(axes) if not axis]
    return tape.op("Unsqueeze", value, tape.ints(lacking)) if lacking else value


def filled(tape: Tape, value: ir.Value, order: str, sizes: Mapping[str, int]) -> ir.Value:
    """A value repeated to the full size of every letter."""
    full = tuple(sizes[letter] for letter in order)
    if tape.shape(value) == full:
        return value
    array = constant_of(value)
    if array is not None:
        return tape.constant(np.broadcast_to(array, full))
    return tape.op("Expand", value, tape.ints(full))


def multiplied(
    tape: Tape, factors: Sequence[View], scale: float, order: str, sizes: Mapping[str, int]
) -> ir.Value | None:
    """The product of factors, one axis a letter of `order`; None if there is nothing to multiply."""
    values = [arranged(tape, factor, order, sizes) for factor in factors]
    if not values:
        return None
    arrays = [array for value in values if (array := constant_of(value)) is not None]
    if len(values) == 1 and scale == 1.0:
        return values[0]
    if len(arrays) == len(values):
        return tape.constant(np.asarray(scale * math.prod(arrays[1:], start=arrays[0]), dtype=np.float32))
    result = values[0]
    for value in values[1:]:
        result = tape.op("Mul", result, value)
    return result if scale == 1.0 else tape.op("Mul", result, tape.scalar(scale))
