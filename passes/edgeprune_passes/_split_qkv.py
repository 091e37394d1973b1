"""Split a projection that computes queries, keys and values at once into one for each.

Which columns of the weight arrive where is read off by sending their numbers through the operators in between, so that
every spelling (5-D reshape and split, Gather on a leading axis, sequence-first) is one case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import PREFIX, constant_of, static_shape, upstream
from edgeprune.core.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.attention import Attention

_MOVES = {"Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Gather", "Identity", "Flatten"}


@dataclass(frozen=True, slots=True, eq=False)
class _Linear:
    """x @ weight + bias, [B, T, D] -> [B, T, W] in some order of the leading axes."""

    data: ir.Value
    weight: np.ndarray
    bias: np.ndarray | None
    output: ir.Value


def split_fused_projection(model: ir.Model, attention: Attention) -> int:
    """Give queries, keys and values of one attention projections of their own; 1 if that was done, else 0."""
    ends = [_end_of_moves(v) for v in (attention.query, attention.key, attention.value) if v is not None]
    if len(ends) != 3 or any(end is None for end in ends):
        return 0
    paths = [end for end in ends if end is not None]
    source = paths[0][1]
    if any(path[1] is not source for path in paths):
        return 0
    linear = _linear_of(source)
    if linear is None:
        return 0
    plans = [_columns(linear, end, source) for end, _ in paths]
    if any(plan is None for plan in plans):
        return 0
    for (end, _), columns in zip(paths, plans, strict=True):
        if columns is not None:
            _rewrite(model, linear, end, columns)
    return 1


def _end_of_moves(value: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """Up from an operand of attention: past scalings to the last moved value, then to where the moves begin."""
    end = value
    while (node := end.producer()) is not None and node.op_type not in _MOVES:
        data = [v for v in node.inputs if v is not None and constant_of(v) is None]
        if len(data) != 1 or node.op_type not in {"Mul", "Div", "Cast"}:
            return None
        end = data[0]
    start, through_part = end, False
    while (node := start.producer()) is not None and node.op_type in _MOVES:
        through_part |= node.op_type in {"Slice", "Split", "Gather"}
        if node.inputs[0] is None:
            return None
        start = node.inputs[0]
    return (_after_part(end), start) if through_part else None


def _after_part(end: ir.Value) -> ir.Value:
    """The value right behind the operator that takes a part: moves behind it may be shared or scaled; they stay."""
    value = end
    while (node := value.producer()) is not None and node.op_type in _MOVES - {"Slice", "Split", "Gather"}:
        assert node.inputs[0] is not None
        value = node.inputs[0]
    return value


def _linear_of(value: ir.Value) -> _Linear | None:
    bias = None
    node = value.producer()
    if node is not None and node.op_type == "Add":
        constants = [constant_of(v) for v in node.inputs]
        data = [v for v, c in zip(node.inputs, constants, strict=True) if c is None]
        bias = next((c for c in constants if c is not None), None)
        if len(data) != 1 or data[0] is None or bias is None or bias.ndim != 1:
            return None
        node = data[0].producer()
    if node is None or node.inputs[0] is None:
        return None
    weight = constant_of(node.inputs[1]) if node.op_type in {"MatMul", "Gemm"} else None
    if weight is None or weight.ndim != 2:
        return None
    if node.op_type == "Gemm":
        weight = weight.T if "transB" in node.attributes and node.attributes["transB"].as_int() else weight
        bias = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
    return _Linear(node.inputs[0], weight, bias, value)


def _columns(linear: _Linear, end: ir.Value, source: ir.Value) -> np.ndarray | None:
    """Which entries of the projection's result arrive where: int64 of `end`'s shape, row * W + column."""
    shape = static_shape(source)
    if shape is None:
        return None
    numbers = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    moved = _evaluate(end, source, numbers)
    return moved if linear.weight.shape[1] == shape[-1] else None


def _evaluate(end: ir.Value, source: ir.Value, numbers: np.ndarray) -> np.ndarray:
    """Run the moves between two values on an array."""
    known: dict[ir.Value, np.ndarray] = {source: numbers}
    wanted = upstream(end) - upstream(source)
    nodes = [n for n in (source.producer().graph if source.producer() else ()) if n in wanted]  # type: ignore[union-attr]
    for node in nodes:
        data = node.inputs[0]
        if data in known:
            known |= dict(zip(node.outputs, _move(node, known[data]), strict=True))
    return known[end]


def _move(node: ir.Node, array: np.ndarray) -> Sequence[np.ndarray]:
    arguments = [constant_of(v) for v in node.inputs[1:]]
    shapes = [static_shape(v) for v in node.outputs]
    attributes = node.attributes
    axis = attributes["axis"].as_int() if "axis" in attributes else 0
    if node.op_type == "Transpose":
        return [array.transpose(attributes["perm"].as_ints())]
    if node.op_type == "Gather":
        assert arguments[0] is not None
        return [np.take(array, arguments[0], axis=axis)]
    if node.op_type == "Split":
        return np.split(array, np.cumsum([s[axis] for s in shapes if s])[:-1], axis=axis)
    if node.op_type == "Slice":
        return [array[_slices(array, arguments)]]
    assert shapes[0] is not None
    return [array.reshape(shapes[0])]


def _slices(array: np.ndarray, arguments: Sequence[np.ndarray | None]) -> tuple[slice, ...]:
    starts, stops = arguments[0], arguments[1]
    assert starts is not None
    assert stops is not None
    axes = arguments[2] if len(arguments) > 2 and arguments[2] is not None else np.arange(len(starts))
    steps = arguments[3] if len(arguments) > 3 and arguments[3] is not None else np.ones(len(starts), np.int64)
    out = [slice(None)] * array.ndim
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        out[int(axis)] = slice(int(start), int(stop), int(step))
    return tuple(out)


def _rewrite(model: ir.Model, linear: _Linear, end: ir.Value, numbers: np.ndarray) -> None:
    """Compute `end` from its own columns of the weight: a product, a reshape, a transpose."""
    width = linear.weight.shape[1]
    rows, columns = np.divmod(numbers, width)
    own = _own_columns(rows, columns)
    if own is None:
        return
    order, used = own
    producer = linear.output.producer()
    assert producer is not None
    tape = Tape(model, before=producer, prefix=f"{PREFIX}split/{end.name}")
    result = tape.op("MatMul", linear.data, tape.constant(np.ascontiguousarray(linear.weight[:, used.ravel()])))
    if linear.bias is not None:
        result = tape.op("Add", result, tape.constant(np.ascontiguousarray(linear.bias[used.ravel()])))
    sorted_shape = [numbers.shape[i] for i in order]
    result = tape.op("Reshape", result, tape.ints(sorted_shape))
    back = [order.index(i) for i in range(len(order))]
    if back != list(range(len(back))):
        result = tape.op("Transpose", result, perm=back)
    for use in list(end.uses()):
        use.node.replace_input_with(use.idx, result)


def _own_columns(rows: np.ndarray, columns: np.ndarray) -> tuple[list[int], np.ndarray] | None:
    """The order of axes that puts rows first and ascending, and the columns [.., ..] of one row; None if they mix."""
    by_row = [i for i in range(rows.ndim) if _varies(rows, i)]
    by_column = [i for i in range(rows.ndim) if i not in by_row]
    if any(_varies(columns, i) for i in by_row):
        return None
    ascending = sorted(by_row, key=lambda i: -abs(int(np.diff(rows.take([0, 1], axis=i), axis=i).flat[0])))
    order = [*ascending, *by_column]
    expected = np.arange(rows.size // columns.transpose(order).reshape(-1, _count(columns, by_column)).shape[1])
    found = rows.transpose(order).reshape(len(expected), -1)[:, 0]
    if not np.array_equal(found, expected):
        return None
    return order, columns.transpose(order).reshape(len(expected), -1)[0]


def _count(array: np.ndarray, axes: list[int]) -> int:
    return int(np.prod([array.shape[i] for i in axes]))


def _varies(array: np.ndarray, axis: int) -> bool:
    return array.shape[axis] > 1 and bool((np.diff(array, axis=axis) != 0).any())
