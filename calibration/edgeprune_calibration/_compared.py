"""What of two graphs can be compared: outputs where they are the same function of the survivors, else what feeds them.

A mean over tokens, or a decoder behind restored tokens, sees other tokens in the pruned graph by design. There the last
value that still has one row per token is compared instead, on the rows of the survivors. Values are matched by name:
surgery keeps the names of what it does not touch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgeprune.core.errors import ValidationError
from edgeprune.core.graph import downstream, name_of, upstream
from edgeprune_calibration._masked import EXTRA
from edgeprune_calibration._specs import Array

if TYPE_CHECKING:
    import onnx_ir as ir

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

_POOLS = frozenset(
    ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "GlobalAveragePool", "GlobalMaxPool"]
)
_RESTORE = "edgeprune/restore"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One value of each graph.

    Attributes:
        dense: name in the dense graph.
        pruned: name in the pruned graph.
        token_axis: where the dense value has one row per token; None where the values are compared whole.
        restored: whether the pruned value has all rows again.
    """

    dense: str
    pruned: str
    token_axis: int | None = None
    restored: bool = False


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the dense sequence, of the pruned one at its end, and those that are prefix; where these begin."""

    dense: int
    pruned: int
    prefix: int
    place: int = 0

    def row_axis(self, dense: Sequence[int], pruned: Sequence[int]) -> int | None:
        """Axis along which the second shape has the survivors of the first; None if they differ in any other way."""
        if len(dense) != len(pruned):
            return None
        differing = [i for i, (a, b) in enumerate(zip(dense, pruned, strict=True)) if a != b]
        if len(differing) != 1:
            return None
        axis = differing[0]
        shift = dense[axis] - self.dense
        # Rows that a head adds or takes off are in front, where prefix tokens come first.
        fits = abs(shift) <= (0 if self.place else EXTRA) and pruned[axis] - self.pruned == shift
        return axis if fits else None

    def whole_axis(self, shape: Sequence[int]) -> int | None:
        """Axis of a restored value that has every token, or every patch token."""
        for length in (self.dense, self.dense - self.prefix)[: 1 if self.place else 2]:
            for axis in range(1, len(shape)):
                if shape[axis] == length:
                    return axis
        return None


def find_comparisons(
    dense: ir.Model, pruned: ir.Model, cut: ir.Value, shapes: tuple[Shapes, Shapes], lengths: Lengths
) -> tuple[Comparison, ...]:
    """Choose what to compare after the last `cut` (a value of the dense graph).

    Raises:
        ValidationError: if nothing can be compared.
    """
    after = downstream([cut])
    rows = _rows(dense, after, shapes, lengths)
    pools = _pools(dense, rows)
    pooled = {*pools, *downstream([out for node in pools for out in node.outputs])}
    found = [_output(value, pruned, pooled, shapes, lengths) for value in dense.graph.outputs]
    chosen = [comparison for comparison in found if comparison is not None]
    if rows:
        chosen.append(rows[-1])
    if not chosen:
        msg = "no output and no inner value of the pruned graph can be compared with the dense graph"
        raise ValidationError(msg, hint="name the values to compare: `compare=`")
    return tuple(dict.fromkeys(chosen))


def take_rows(value: Array, comparison: Comparison, positions: Array, tokens: int) -> Array:
    """Rows of the survivors of a value at full length, along the comparison's token axis."""
    axis = comparison.token_axis
    if axis is None:
        return value
    length = value.shape[axis]
    shift = length - tokens  # > 0: a head put tokens in front; < 0: it sliced off the first ones
    front = np.tile(np.arange(max(shift, 0)), (len(positions), 1))
    rows = np.concatenate([front, positions + shift], axis=1)
    rows = rows[:, np.flatnonzero((rows >= 0).all(axis=0))]
    if axis == 0:
        return np.asarray(np.take(value, rows[0], axis=0))
    rows = np.repeat(rows, value.shape[0] // len(rows), axis=0)
    aligned = rows.reshape(len(rows), *(-1 if i == axis else 1 for i in range(1, value.ndim)))
    return np.take_along_axis(value, aligned, axis=axis)


def _rows(dense: ir.Model, after: set[ir.Node], shapes: tuple[Shapes, Shapes], lengths: Lengths) -> list[Comparison]:
    found = []
    for node in dense.graph:
        if node not in after:
            continue
        for name in (name_of(value) for value in node.outputs):
            if name in shapes[0] and name in shapes[1]:
                axis = lengths.row_axis(shapes[0][name], shapes[1][name])
                if axis is not None:
                    found.append(Comparison(name, name, axis))
    return found


def _pools(dense: ir.Model, rows: Sequence[Comparison]) -> list[ir.Node]:
    names = {row.dense for row in rows}
    pools = [node for node in dense.graph if node.op_type in _POOLS and name_of_input(node) in names]
    # A norm reduces the channels and keeps the rows: its output is itself one row per token.
    return [node for node in pools if not any(name_of(out) in names for out in node.outputs)]


def name_of_input(node: ir.Node) -> str:
    """Name of a node's first input, or nothing."""
    return name_of(node.inputs[0]) if node.inputs and node.inputs[0] is not None else ""


def _output(
    value: ir.Value, pruned: ir.Model, pooled: set[ir.Node], shapes: tuple[Shapes, Shapes], lengths: Lengths
) -> Comparison | None:
    name = name_of(value)
    twin = next((out for out in pruned.graph.outputs if out.name == name), None)
    if twin is None or name not in shapes[0] or name not in shapes[1]:
        return None
    if shapes[0][name] != shapes[1][name]:
        axis = lengths.row_axis(shapes[0][name], shapes[1][name])
        return None if axis is None else Comparison(name, name, axis)
    if value.producer() in pooled:
        return None
    if any(name_of(node).startswith(_RESTORE) for node in upstream(twin)):
        axis = lengths.whole_axis(shapes[0][name])
        return None if axis is None else Comparison(name, name, axis, restored=True)
    return Comparison(name, name)
