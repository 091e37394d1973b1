"""Keep the patch tokens that differ from the one in front of them, and merge the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes.scan_scores import choose_sides, most_alike, refuse_scans, scan_outputs
from edgeprune_passes.scores import kept_sizes, merge_into
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site


@dataclass(frozen=True, slots=True)
class SsmRuns:
    """Keep tokens where ||x_t - x_(t-1)|| ||y_t - y_(t-1)|| is large, merge others into them. Needs selective scans.

    A scan reads its tokens one after another: what repeats the token before it tells it least. x is the stream behind
    the block, y what its scans give (see ssm-output). The K patch tokens with the highest scores begin a run each, as
    many before the class token as behind it; the first on either side always does. Each of the others is averaged into
    the kept patch token whose stream is most like its own by cosine, weighted by how many tokens each stands for.

    Attributes:
        merge: whether the others are merged into kept ones, rather than dropped.
        in_front: merge them into the kept token in front of them, the beginning of their run, whatever it is like.

    Refuses: `not-applicable` where the block has no selective scan. No cut inside the block: its scans must have run.
    Cost: T * (D + E) additions for D and E channels, two TopK of N / 2, two of K / 2 to restore the order; to merge R
        tokens, R * K * D MACs for the similarities and as many for the means.
    Source: our own.
    """

    name: ClassVar[str] = "ssm-runs"
    source: ClassVar[str] = "edgeprune"
    anywhere: ClassVar[bool] = True
    late: ClassVar[str] = "its score is of what the scans of the block give, which would run behind the cut"
    merge: bool = True
    in_front: bool = False

    @property
    def merges(self) -> bool:
        """By its option."""
        return self.merge

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Without a scan no token is read after another."""
        del prefix
        return refuse_scans(block)

    def fewest(self, patches: int, prefix: int) -> int:
        """One on either side of a class token."""
        del prefix
        return min(2, patches)

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the changes, begin a run at the largest, and average the runs."""
        changes = tape.op("Mul", _change(tape, site.stream), _change(tape, scan_outputs(site, tape)))
        chosen = choose_sides(site, tape, changes, keep, first=True)
        if chosen.others is None or not self.merge:
            return Selection(chosen.index, size=kept_sizes(site, tape, chosen.index))
        if self.in_front:
            into = _beginning(tape, chosen.index, chosen.others)
        else:
            into = most_alike(site, tape, chosen.patches, chosen.others)
        merge, size = merge_into(site, tape, chosen.index, (chosen.others, into))
        return Selection(chosen.index, merge, size, covers=True)


def _change(tape: Tape, rows: ir.Value) -> ir.Value:
    """Distance of each row of [B, T, D] to the one in front of it, fp32 [B, T]; zero for the first."""
    batch, tokens, _ = tape.shape(rows)
    apart = tape.op("Sub", tape.slice(rows, 1, 1, tokens), tape.slice(rows, 1, 0, tokens - 1))
    nothing = tape.constant(np.zeros((batch, 1), np.float32))
    return tape.op("Concat", nothing, tape.reduce("ReduceL2", apart, 2), axis=1)


def _beginning(tape: Tape, index: ir.Value, others: ir.Value) -> ir.Value:
    """The last kept token in front of each other one, int64 [B, R]."""
    ahead = tape.op("Less", tape.op("Unsqueeze", index, tape.ints([-1])), tape.op("Unsqueeze", others, tape.ints([1])))
    count = tape.reduce("ReduceSum", tape.op("Cast", ahead, to=7), 1)
    return tape.op("GatherElements", index, tape.op("Sub", count, tape.ints([1])), axis=1)
