"""A merged token comes back as its group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes._rows import gather_rows, row_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.tape import Tape
    from edgeprune_passes.restores._done import Done


@dataclass(frozen=True, slots=True)
class Unmerge:
    """y_i is the row of the token that i went into, through all cuts.

    Refuses: cuts that drop tokens.
    Cost: one Gather of T rows for all cuts, and a TopK of T indices for each.
    Source: ToMe for diffusion, arXiv 2303.17604, section 4.1.
    """

    name: ClassVar[str] = "unmerge"
    source: ClassVar[str] = "ToMe for diffusion, arXiv 2303.17604"

    def refuses(self, cuts: Sequence[Done]) -> str | None:
        """Dropped tokens went nowhere."""
        return None if all(done.selection.covers for done in cuts) else "tokens were dropped"

    def bring_back(self, tape: Tape, stream: ir.Value, cuts: Sequence[Done]) -> ir.Value:
        """Write the composed assignment and its gather."""
        if not cuts:
            return stream
        where = _assignment(tape, cuts[-1])
        for done in reversed(cuts[:-1]):
            where = tape.op("GatherElements", where, _assignment(tape, done), axis=1)
        return gather_rows(tape, stream, where)


def _assignment(tape: Tape, done: Done) -> ir.Value:
    """For each old token the new one that holds it, int64 [B, T]."""
    index, merge = done.selection.index, done.selection.merge
    batch, kept = tape.shape(index)
    where = tape.constant(np.tile(np.arange(kept, dtype=np.int64), (batch, 1)))
    if merge is not None:
        where = tape.op("Concat", where, row_of(tape, index, merge.into), axis=1)
        index = tape.op("Concat", index, merge.source, axis=1)
    # Kept and merged tokens together are all: sorting them by their places inverts the order that they stand in.
    every = tape.ints([done.tokens])
    order = tape.ops("TopK", index, every, outputs=2, axis=-1, largest=0, sorted=1, name="order")[1]
    return tape.op("GatherElements", where, order, axis=1)
