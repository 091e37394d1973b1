"""A merged token comes back as its group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeprune_passes._rows import gather_rows
from edgeprune_passes.restores._done import assignment

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
        where = assignment(tape, cuts[-1])
        for done in reversed(cuts[:-1]):
            where = tape.op("GatherElements", where, assignment(tape, done), axis=1)
        return gather_rows(tape, stream, where)
