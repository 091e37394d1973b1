"""Literal entries of a Slice, and the one spelling of a flip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import constant_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.tape import Tape

BEFORE_FIRST = -(1 << 63)  # a stop that holds for any length


@dataclass(frozen=True, slots=True)
class Entry:
    """What a Slice does to one axis, with the axis and both ends counted from the front; a flip stops at -1."""

    axis: int
    start: int
    stop: int
    step: int

    def is_flip(self, size: int) -> bool:
        """Whether all of an axis is read backwards."""
        return self.step == -1 and self.start == size - 1 and self.stop == -1


def slice_entries(node: ir.Node, shape: Sequence[int]) -> list[Entry] | None:
    """What a Slice does to a value of a shape; None where an operand is no constant."""
    arrays = [constant_of(value) for value in node.inputs[1:]]
    if any(array is None for array in arrays) or len(arrays) < 2:
        return None
    starts, stops, *rest = [[int(i) for i in np.atleast_1d(array)] for array in arrays if array is not None]
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    return [
        Entry(axis % len(shape), *_ends(start, stop, step, shape[axis]), step)
        for start, stop, step, axis in zip(starts, stops, steps, axes, strict=True)
    ]


def _ends(start: int, stop: int, step: int, size: int) -> tuple[int, int]:
    """Both ends clamped as ONNX does it."""
    lowest, highest = (0, size) if step > 0 else (-1, size - 1)
    start, stop = (end + size if end < 0 else end for end in (start, stop))
    return max(0, min(start, highest)), max(lowest, min(stop, highest))


def flipped(tape: Tape, value: ir.Value, axis: int) -> ir.Value:
    """The value with one axis backwards."""
    last = tape.ints([-1])
    return tape.op("Slice", value, last, tape.ints([BEFORE_FIRST]), tape.ints([axis]), last)
