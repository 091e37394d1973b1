"""A value with the meaning of each of its axes, walked up and down through what only moves axes about.

A meaning is a letter: T for tokens, and one for each axis of the state. An axis holds several where a Reshape merged
them, and none where its size is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of, static_shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

Axis = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A value and what its axes mean."""

    value: ir.Value
    axes: tuple[Axis, ...]

    @property
    def letters(self) -> set[str]:
        """All meanings of the value."""
        return {letter for axis in self.axes for letter in axis}


def view(value: ir.Value, axes: Sequence[Axis], sizes: Mapping[str, int]) -> View | None:
    """A view of a value whose last axes are given: broadcasting aligns from the right; None without a shape."""
    shape = static_shape(value)
    if shape is None or len(shape) > len(axes):
        return None
    own = axes[len(axes) - len(shape) :]
    return View(
        value, tuple(axis if size == size_of(axis, sizes) else () for size, axis in zip(shape, own, strict=True))
    )


def size_of(axis: Axis, sizes: Mapping[str, int]) -> int:
    """Elements along an axis."""
    return math.prod(sizes[letter] for letter in axis)


def above(seen: View, sizes: Mapping[str, int]) -> View | None:
    """The view one layout operator further up; None where the value is computed otherwise."""
    node = seen.value.producer()
    source = node.inputs[0] if node is not None and node.inputs else None
    if node is None or source is None or static_shape(source) is None:
        return None
    axes = _source_axes(node, static_shape(source) or (), seen.axes, sizes)
    return None if axes is None else view(source, axes, sizes)


def _source_axes(
    node: ir.Node, shape: Sequence[int], axes: Sequence[Axis], sizes: Mapping[str, int]
) -> Sequence[Axis] | None:
    """Axes of what a layout operator reads, from those of what it gives."""
    op = node.op_type
    if op in {"Identity", "Expand"} or _same_cast(node) or takes_all(node):
        return axes
    if op == "Transpose":
        origins = dict(zip(perm_of(node, len(axes)), axes, strict=True))
        return [origins[i] for i in range(len(axes))]
    if op == "Squeeze" or _takes_the_only(node):
        return _with(axes, _axes_of(node, len(shape)))
    if op == "Unsqueeze":
        return _without(axes, _axes_of(node, len(axes)))
    return _regrouped(axes, shape, sizes) if op in {"Reshape", "Flatten"} else None


def below(seen: View, node: ir.Node, sizes: Mapping[str, int]) -> View | None:
    """The view of what a layout operator makes of a value; None if it does more than move axes."""
    shape = static_shape(node.outputs[0])
    axes = seen.axes
    if shape is None or node.inputs[0] is not seen.value:
        return None
    if node.op_type == "Transpose":
        return View(node.outputs[0], tuple(axes[i] for i in perm_of(node, len(axes))))
    if node.op_type == "Identity" or _same_cast(node):
        return View(node.outputs[0], axes)
    if node.op_type in {"Squeeze", "Unsqueeze"} or _takes_the_only(node):
        removed = _axes_of(node, max(len(shape), len(axes)))
        found = _with(axes, removed) if node.op_type == "Unsqueeze" else _without(axes, removed)
    else:
        found = _regrouped(axes, shape, sizes) if node.op_type in {"Reshape", "Flatten"} else None
    return None if found is None else View(node.outputs[0], found)


def _axes_of(node: ir.Node, rank: int) -> list[int] | None:
    """Axes of a Squeeze, an Unsqueeze, or a Gather that is one; None where they are not literal."""
    if node.op_type == "Gather":
        return [(node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % rank]
    if "axes" in node.attributes:
        return [axis % rank for axis in node.attributes["axes"].as_ints()]
    array = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if array is None else [int(axis) % rank for axis in array.reshape(-1)]


def _takes_the_only(node: ir.Node) -> bool:
    """Whether a Gather drops an axis of size one."""
    if node.op_type != "Gather" or node.inputs[0] is None:
        return False
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    index = constant_of(node.inputs[1])
    if before is None or after is None or index is None or index.ndim:
        return False
    return before[_axes_of(node, len(before))[0]] == 1  # type: ignore[index]


def _without(axes: Sequence[Axis], removed: Sequence[int] | None) -> tuple[Axis, ...] | None:
    return None if removed is None else tuple(axis for i, axis in enumerate(axes) if i not in removed)


def _with(axes: Sequence[Axis], added: Sequence[int] | None) -> tuple[Axis, ...] | None:
    if added is None:
        return None
    rest = iter(axes)
    return tuple(() if i in added else next(rest) for i in range(len(axes) + len(added)))


def perm_of(node: ir.Node, rank: int) -> list[int]:
    """Order of axes of a Transpose."""
    return list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else list(range(rank))[::-1]


def _same_cast(node: ir.Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    return node.op_type == "Cast" and source is not None and source.dtype == node.outputs[0].dtype is not None


def takes_all(node: ir.Node) -> bool:
    """Whether it is a Slice that takes everything, forwards: TorchScript writes one for every `:`."""
    if node.op_type != "Slice":
        return False
    shape = static_shape(node.outputs[0])
    steps = constant_of(node.inputs[4]) if len(node.inputs) > 4 else None
    forwards = len(node.inputs) <= 4 or (steps is not None and (steps == 1).all())
    return forwards and shape is not None and node.inputs[0] is not None and shape == static_shape(node.inputs[0])


def _regrouped(axes: Sequence[Axis], shape: Sequence[int], sizes: Mapping[str, int]) -> tuple[Axis, ...] | None:
    """The same letters in the same order on axes of other sizes; None if a size falls inside a letter."""
    letters = [letter for axis in axes for letter in axis]
    found: list[Axis] = []
    for size in shape:
        own: list[str] = [letters.pop(0)] if letters and sizes[letters[0]] == size == 1 else []
        while letters and size_of(tuple(own), sizes) < size:
            own.append(letters.pop(0))
        if size_of(tuple(own), sizes) != size:
            return None
        found.append(tuple(own))
    return None if any(sizes[letter] > 1 for letter in letters) else tuple(found)
