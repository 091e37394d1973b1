"""Numbers per token from the selective scans of a block, and choices by them on either side of the class token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune_passes._alignment import reversed_order
from edgeprune_passes._cut import relabel
from edgeprune_passes._layout import to_stream
from edgeprune_passes._rows import gather_rows
from edgeprune_passes.scores import ascending, ranked, unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site


def refuse_scans(block: Block) -> Refusal | None:
    """Why nothing can be read from the scans of a block, or None."""
    if not block.scans:
        return Refusal(RefusalCode.NOT_APPLICABLE, "the block has no selective scan")
    return None


def step_scores(site: Site, tape: Tape) -> ir.Value:
    """Mean step over the channels, added up over the directions, the backward one flipped back: fp32 [B, T]."""
    rows = []
    for scan in site.block.scans:
        row = tape.reduce("ReduceMean", scan.step, 2)
        rows.append(reversed_order(tape, row) if scan.flipped else row)
    total = _sum(tape, rows)
    return total if site.positions is None else tape.op("GatherElements", total, site.positions, axis=1)


def output_scores(site: Site, tape: Tape) -> ir.Value:
    """Sum over the channels of max(0, y): fp32 [B, T]."""
    return tape.reduce("ReduceSum", tape.op("Relu", scan_outputs(site, tape)), 2)


def scan_outputs(site: Site, tape: Tape) -> ir.Value:
    """What scans give with their skips: the sum of both directions, the backward one flipped back, fp32 [B, T, E]."""
    outputs = []
    for scan in site.block.scans:
        label = site.labels[scan.output]
        there = site.tokens if site.positions is None else label.shape[label.token_axes[0]]
        output = to_stream(tape, scan.output, relabel(label, there), site.batch)
        outputs.append(reversed_order(tape, output) if scan.flipped else output)
    total = _sum(tape, outputs)
    return total if site.positions is None else gather_rows(tape, total, site.positions)


def _sum(tape: Tape, values: Sequence[ir.Value]) -> ir.Value:
    total = values[0]
    for value in values[1:]:
        total = tape.op("Add", total, value)
    return total


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """A choice on either side of the prefix tokens, as positions in the stream.

    Attributes:
        index: int64 [B, K'], what is kept, ascending, with the prefix tokens among them.
        patches: int64 [B, K], the same without them.
        others: int64 [B, R], what is not kept; None where that is nothing.
    """

    index: ir.Value
    patches: ir.Value
    others: ir.Value | None


def choose_sides(site: Site, tape: Tape, scores: ir.Value, keep: int, *, first: bool = False) -> Chosen:
    """The patch tokens with the highest scores [B, T]: on either side of the prefix tokens as many as the site says.

    Args:
        site: the cut.
        tape: where to write.
        scores: fp32 [B, T].
        keep: patch tokens.
        first: the first of each side is kept whatever its score.
    """
    behind = site.place + site.prefix
    before, after = site.sides(keep)
    ranks = _ranked_from_second if first else _ranked
    left, right = ranks(tape, scores, 0, site.place), ranks(tape, scores, behind, site.tokens)
    kept = [ascending(tape, part) for part in (*_part(tape, left, 0, before), *_part(tape, right, 0, after))]
    patches = index = _joined(tape, kept)
    if site.prefix:
        middle = np.tile(np.arange(site.place, behind, dtype=np.int64), (site.batch, 1))
        kept.insert(1 if before else 0, tape.constant(middle))
        index = _joined(tape, kept)
    others = [*_part(tape, left, before, site.tokens), *_part(tape, right, after, site.tokens)]
    return Chosen(index, patches, _joined(tape, others) if others else None)


def most_alike(site: Site, tape: Tape, patches: ir.Value, others: ir.Value) -> ir.Value:
    """For each of some tokens [B, R] the one of `patches` [B, K] whose stream is most like its own: int64 [B, R]."""
    stream = unit(tape, site.stream)
    right = tape.op("Transpose", gather_rows(tape, stream, patches), perm=[0, 2, 1])
    alike = tape.op("MatMul", gather_rows(tape, stream, others), right)
    return tape.op("GatherElements", patches, tape.op("ArgMax", alike, axis=2, keepdims=0), axis=1)


def _ranked(tape: Tape, scores: ir.Value, start: int, stop: int) -> ir.Value | None:
    """Positions `start` to `stop` of the stream, those with the highest scores first; None where there is none."""
    if start == stop:
        return None
    order = ranked(tape, tape.slice(scores, 1, start, stop), stop - start)
    return tape.op("Add", order, tape.ints([start])) if start else order


def _ranked_from_second(tape: Tape, scores: ir.Value, start: int, stop: int) -> ir.Value | None:
    """The same with position `start` in front of all others."""
    if start == stop:
        return None
    batch = tape.shape(scores)[0]
    lead = tape.constant(np.full((batch, 1), start, np.int64))
    rest = _ranked(tape, scores, start + 1, stop)
    return lead if rest is None else tape.op("Concat", lead, rest, axis=1)


def _part(tape: Tape, order: ir.Value | None, start: int, stop: int) -> list[ir.Value]:
    """Some of a ranking [B, n], as a list of one, or of none where they are no tokens."""
    size = tape.shape(order)[1] if order is not None else 0
    return [tape.slice(order, 1, start, min(stop, size))] if order is not None and start < min(stop, size) else []


def _joined(tape: Tape, parts: Sequence[ir.Value]) -> ir.Value:
    return tape.op("Identity", parts[0]) if len(parts) == 1 else tape.op("Concat", *parts, axis=1)
