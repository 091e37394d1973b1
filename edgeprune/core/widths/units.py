"""Units along the axes of a value: an array of unit numbers that broadcasts to the value's shape.

    [B, T, 3*H*Dh]  heads                [1, 1, 3*H*Dh]     0 0 0 1 1 1  0 0 0 1 1 1  0 0 0 1 1 1
    [3, B, H, T, Dh]                     [1, 1, H, 1, 1]    0 1

An axis of size one there says that the unit does not depend on it.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Units: TypeAlias = npt.NDArray[np.int64]
Kept: TypeAlias = npt.NDArray[np.bool_]


class Unions:
    """Disjoint sets of units: what must be removed together."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size)

    def join(self, a: Units, b: Units) -> None:
        """Put units that stand at the same place into one set; the arrays broadcast."""
        pairs = np.stack(np.broadcast_arrays(a, b)).reshape(2, -1)
        for x, y in np.unique(pairs, axis=1).T:
            low, high = sorted((self._root(int(x)), self._root(int(y))))
            self._parent[high] = low

    def _root(self, unit: int) -> int:
        while self._parent[unit] != unit:
            self._parent[unit] = self._parent[self._parent[unit]]
            unit = int(self._parent[unit])
        return unit

    def classes(self) -> Units:
        """The number of each unit's set; sets are numbered by their first unit."""
        roots = np.array([self._root(unit) for unit in range(len(self._parent))])
        return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def squashed(units: Units) -> Units:
    """The same units with every axis that they do not depend on reduced to size one."""
    for axis in range(units.ndim):
        first = units.take([0], axis=axis)
        if units.shape[axis] > 1 and bool((units == first).all()):
            units = first
    return units


def varies(units: Units, axis: int) -> bool:
    """Whether units differ along an axis."""
    return int(units.shape[axis]) > 1


def aligned(units: Units, rank: int) -> Units:
    """The units with axes of size one in front, as broadcasting adds them."""
    return units.reshape((1,) * (rank - units.ndim) + units.shape)


def reshaped(units: Units, before: Sequence[int], after: Sequence[int]) -> Units:
    """Units of a value behind a row-major reshape."""
    shape: list[int] = []
    full: list[int] = []
    for olds, news in _together(before, after):
        moved = any(varies(units, axis) for axis in olds)
        full += [before[axis] if moved else 1 for axis in olds]
        shape += [after[axis] if moved else 1 for axis in news]
    return squashed(np.broadcast_to(units, full).reshape(shape))


def _together(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Axes before and after a reshape that hold the same elements: the fewest that belong together."""
    i = j = 0
    while i < len(before) or j < len(after):
        olds, news = list(range(i, min(i + 1, len(before)))), list(range(j, min(j + 1, len(after))))
        while (left := prod(before[a] for a in olds)) != (right := prod(after[a] for a in news)):
            short, at = (olds, i) if left < right else (news, j)
            short.append(at + len(short))
        yield olds, news
        i, j = i + len(olds), j + len(news)


def kept_by_axis(units: Units, shape: Sequence[int], kept: Kept) -> tuple[Kept, ...] | None:
    """For each axis of a value which positions stay; None if what stays is no box."""
    stays = kept[units]
    out = []
    for axis, size in enumerate(shape):
        others = tuple(a for a in range(stays.ndim) if a != axis)
        along = stays.any(axis=others)
        out.append(np.broadcast_to(along, (size,)))
    small = [mask[: stays.shape[axis]] for axis, mask in enumerate(out)]
    box = np.ones((), bool)
    for axis, mask in enumerate(small):
        box = box & mask.reshape([-1 if a == axis else 1 for a in range(stays.ndim)])
    return tuple(out) if np.array_equal(np.broadcast_to(box, stays.shape), stays) else None


def sizes_of(masks: Sequence[Kept]) -> tuple[int, ...]:
    """How many positions stay along each axis."""
    return tuple(int(mask.sum()) for mask in masks)
