"""Bring a labelled value to [B, T, D] or [B, H, T, Dh] and back, whatever order of axes an export uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.flow.labels import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.flow.labels import Label
    from edgeprune.core.tape import Tape


def stream_order(label: Label, batch: int) -> list[int]:
    """The permutation that brings a stream to batch, tokens, rest."""
    tokens = label.token_axes[0]
    first = list(label.axes_of(Batch)) if batch > 1 else []
    rest = [i for i in range(len(label.axes)) if i != tokens and i not in first]
    ones = [i for i in rest if label.shape[i] == 1] if batch == 1 else []
    return [*first, *ones, tokens, *[i for i in rest if i not in ones]]


def to_stream(tape: Tape, value: ir.Value, label: Label, batch: int) -> ir.Value:
    """A residual stream as [B, T, D]."""
    order = stream_order(label, batch)
    value = transpose(tape, value, order)
    shape = tape.shape(value)
    tokens = label.shape[label.token_axes[0]]
    return reshape(tape, value, [batch, tokens, _product(shape) // (batch * tokens)])


def from_stream(tape: Tape, stream: ir.Value, label: Label, batch: int) -> ir.Value:
    """[B, K, D] in the order of axes that `label` has; the token axis has the stream's length."""
    order = stream_order(label, batch)
    kept = tape.shape(stream)[1]
    shape = [kept if i == label.token_axes[0] else label.shape[i] for i in order]
    value = reshape(tape, stream, shape)
    return transpose(tape, value, [order.index(i) for i in range(len(order))])


def to_heads(tape: Tape, value: ir.Value, batch: int, *, transposed: bool = False) -> ir.Value:
    """Queries, keys or values as [B, H, T, Dh].

    Args:
        tape: where to write.
        value: [B, H, T, Dh], [B*H, T, Dh] or [T, Dh]; with `transposed` the last two axes are swapped.
        batch: B.
        transposed: keys as the product of attention wants them, [..., Dh, T].
    """
    rank = len(tape.shape(value))
    if transposed:
        value = transpose(tape, value, [*range(rank - 2), rank - 1, rank - 2])
    shape = tape.shape(value)
    heads = _product(shape[:-2]) // batch
    return reshape(tape, value, [batch, heads, *shape[-2:]])


def transpose(tape: Tape, value: ir.Value, order: Sequence[int]) -> ir.Value:
    """A Transpose, or the value itself where nothing moves."""
    if list(order) == list(range(len(order))):
        return value
    return tape.op("Transpose", value, perm=list(order))


def reshape(tape: Tape, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    """A Reshape, or the value itself where nothing changes."""
    if tuple(shape) == tape.shape(value):
        return value
    return tape.op("Reshape", value, tape.ints(shape))


def _product(shape: Sequence[int]) -> int:
    result = 1
    for dim in shape:
        result *= dim
    return result
