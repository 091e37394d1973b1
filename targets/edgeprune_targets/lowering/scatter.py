"""Scatter with a reduction as a one-hot product: old TensorRT ignores the attribute, TensorRT-RTX refuses it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.graph import static_shape
from edgeprune_targets.lowering._rewrite import int_of, nodes_of, replace, tape_before, text_of

if TYPE_CHECKING:
    from edgeprune.core.tape import Tape

# Elements of the one-hot matrix from which the rewrite costs more than the model around it (128 MiB in fp16).
LARGEST = 1 << 26


def decompose_scatter(model: ir.Model) -> int:
    """Add, or take the largest or smallest, of the updates that meet at each place; for floats.

    ScatterElements: with the axis last, out = data + sum over K of update[..., K] * onehot[..., K, N].
    ScatterND: the same with one linear index for the leading axes. Nodes that would need a matrix of more than
    `LARGEST` elements, and products, are left as they are.
    """
    done = 0
    for node in nodes_of(model, "ScatterElements", "ScatterND"):
        data = node.inputs[0]
        floats = data is not None and data.dtype is not None and data.dtype.is_floating_point()
        if floats and text_of(node, "reduction", "none") in {"add", "max", "min"}:
            done += _elements(model, node) if node.op_type == "ScatterElements" else _nd(model, node)
    return done


def _elements(model: ir.Model, node: ir.Node) -> int:
    data, index, update = node.inputs
    assert data is not None
    assert index is not None
    assert update is not None
    shape, picked = static_shape(data), static_shape(index)
    if shape is None or picked is None or not shape:
        return 0
    axis = int_of(node, "axis", 0) % len(shape)
    rest = tuple(size for i, size in enumerate(shape) if i != axis)
    if tuple(size for i, size in enumerate(picked) if i != axis) != rest:  # updates for a corner of the data only
        return 0
    if math.prod(rest) * picked[axis] * shape[axis] > LARGEST:
        return 0
    tape = tape_before(model, node)
    perm = [i for i in range(len(shape)) if i != axis] + [axis]
    data, index, update = (_moved(tape, value, perm) for value in (data, index, update))
    one_hot = _one_hot(tape, index, shape[axis])  # [..., K, N]
    column = tape.op("Unsqueeze", update, tape.ints([-1]))
    out = _reduced(tape, node, data, (column, one_hot), axis=-2)
    replace(model, node, _moved(tape, out, [perm.index(i) for i in range(len(shape))]))
    return 1


def _nd(model: ir.Model, node: ir.Node) -> int:
    data, index, update = node.inputs
    assert data is not None
    assert index is not None
    assert update is not None
    shape, picked = static_shape(data), static_shape(index)
    if shape is None or picked is None:
        return 0
    depth, rows = picked[-1], math.prod(picked[:-1])
    places, width = math.prod(shape[:depth]), math.prod(shape[depth:])
    added = text_of(node, "reduction", "none") == "add"
    if rows * places * (1 if added else width) > LARGEST:
        return 0
    tape = tape_before(model, node)
    strides = [math.prod(shape[i + 1 : depth]) for i in range(depth)]
    index = _not_negative(tape, tape.op("Reshape", index, tape.ints([rows, depth])), shape[:depth])
    linear = tape.reduce("ReduceSum", tape.op("Mul", index, tape.ints(strides)), 1)
    one_hot = _one_hot(tape, linear, places)  # [K, P]
    flat = tape.op("Reshape", data, tape.ints([places, width]))
    update = tape.op("Reshape", update, tape.ints([rows, width]))
    if added:
        turned = tape.op("Transpose", _typed(tape, one_hot, update), perm=[1, 0])
        out = tape.op("Add", flat, tape.op("MatMul", turned, update))
    else:
        wide = tape.op("Unsqueeze", one_hot, tape.ints([-1]))  # [K, P, 1]
        out = _reduced(tape, node, flat, (tape.op("Unsqueeze", update, tape.ints([1])), wide), axis=0)
    replace(model, node, tape.op("Reshape", out, tape.ints(shape)))
    return 1


def _reduced(tape: Tape, node: ir.Node, data: ir.Value, pair: tuple[ir.Value, ir.Value], axis: int) -> ir.Value:
    """Data and, along `axis`, the updates that the boolean one-hot lets through."""
    update, one_hot = pair
    kind = text_of(node, "reduction", "none")
    if kind == "add":
        row = tape.op("Squeeze", tape.op("MatMul", _row(tape, update), _typed(tape, one_hot, update)), tape.ints([-2]))
        return tape.op("Add", data, row)
    assert data.dtype is not None
    nothing = _extreme(data.dtype, lowest=kind == "max")
    masked = tape.op("Where", one_hot, update, tape.constant(nothing))
    best = tape.reduce("ReduceMax" if kind == "max" else "ReduceMin", masked, axis)
    return tape.op("Max" if kind == "max" else "Min", data, best)


def _row(tape: Tape, column: ir.Value) -> ir.Value:
    """[..., K, 1] -> [..., 1, K]."""
    rank = len(tape.shape(column))
    return tape.op("Transpose", column, perm=[*range(rank - 2), rank - 1, rank - 2])


def _one_hot(tape: Tape, index: ir.Value, size: int) -> ir.Value:
    """[..., size] of booleans: where the index is; a negative one counts from the end."""
    index = _not_negative(tape, tape.op("Unsqueeze", index, tape.ints([-1])), (size,))
    return tape.op("Equal", index, tape.constant(np.arange(size, dtype=np.int64)))


def _not_negative(tape: Tape, index: ir.Value, sizes: tuple[int, ...]) -> ir.Value:
    """Count from the start of axes of these sizes, which lie along the last axis of the index."""
    if index.dtype != ir.DataType.INT64:
        index = tape.op("Cast", index, to=ir.DataType.INT64.value)
    negative = tape.op("Less", index, tape.constant(np.zeros((), np.int64)))
    return tape.op("Where", negative, tape.op("Add", index, tape.ints(sizes)), index)


def _typed(tape: Tape, mask: ir.Value, like: ir.Value) -> ir.Value:
    assert like.dtype is not None
    return tape.op("Cast", mask, to=like.dtype.value)


def _extreme(dtype: ir.DataType, *, lowest: bool) -> np.ndarray:
    """What loses every comparison."""
    kind = dtype.numpy()
    limits = np.iinfo(kind) if np.issubdtype(kind, np.integer) else np.finfo(kind)
    return np.asarray(limits.min if lowest else limits.max, kind)


def _moved(tape: Tape, value: ir.Value, perm: list[int]) -> ir.Value:
    return value if perm == sorted(perm) else tape.op("Transpose", value, perm=perm)
