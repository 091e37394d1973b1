"""Rows of a stream: picked by an index, or picked and merged. Static, without scatter."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Merge


def gather_rows(tape: Tape, stream: ir.Value, index: ir.Value, *, name: str = "rows") -> ir.Value:
    """Rows of [B, T, D] by an index [B, K], for each sample its own: [B, K, D]."""
    if tape.shape(stream)[0] == 1:
        flat = tape.op("Squeeze", index, tape.ints([0]))
        return tape.op("Gather", stream, flat, axis=1, name=name)
    return tape.op("GatherND", stream, tape.op("Unsqueeze", index, tape.ints([-1])), batch_dims=1, name=name)


def row_of(tape: Tape, index: ir.Value, tokens: ir.Value) -> ir.Value:
    """The row of `index` [B, K'] at which each of `tokens` [B, R] stands: int64 [B, R]."""
    equal = tape.op("Equal", tape.op("Unsqueeze", tokens, tape.ints([-1])), tape.op("Unsqueeze", index, tape.ints([1])))
    return tape.op("ArgMax", tape.op("Cast", equal, to=1), axis=2, keepdims=0)


def merged_rows(tape: Tape, stream: ir.Value, kept: ir.Value, merge: Merge) -> ir.Value:
    """Kept rows with the merged ones averaged in, scaled where the merge asks for it."""
    if merge.scale is None:
        return mean_rows(tape, stream, kept, merge, name="stream")
    return tape.op("Mul", mean_rows(tape, stream, kept, merge, name="mean"), merge.scale, name="stream")


def mean_rows(tape: Tape, stream: ir.Value, kept: ir.Value, merge: Merge, *, name: str = "mean") -> ir.Value:
    """Kept rows with the merged ones averaged in; a product with a small matrix in place of a scatter."""
    sources = gather_rows(tape, stream, merge.source, name="sources")
    added = tape.op("MatMul", merge.weights, sources, name="merged")
    return tape.op("Add", tape.op("Mul", kept, merge.own), added, name=name)
