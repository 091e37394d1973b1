"""Give a mean of vectors the length that averaging took from it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune_passes._rows import gather_rows, mean_rows

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Merge, Site

_LEAST = 1e-12


def lengthened(site: Site, tape: Tape, index: ir.Value, merge: Merge) -> Merge:
    """The merge with scale = (mean length of the members) / (length of their mean), one or more.

    A mean is shorter than its members, and what later blocks add to it weighs more than it did in each of them.

    Source: ToFu's MLERP, arXiv 2312.01026, with the mean length in place of the largest.
    """
    length = tape.reduce("ReduceL2", site.stream, 2, keepdims=True)
    wanted = mean_rows(tape, length, gather_rows(tape, length, index), merge)
    mean = mean_rows(tape, site.stream, gather_rows(tape, site.stream, index, name="kept"), merge, name="mean")
    found = tape.op("Max", tape.reduce("ReduceL2", mean, 2, keepdims=True), tape.scalar(_LEAST))
    return replace(merge, scale=tape.op("Div", wanted, found, name="scale"))
