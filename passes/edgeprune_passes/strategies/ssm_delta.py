"""Keep the patch tokens at which the scans step furthest, and merge the others into what they are most like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeprune_passes.scan_scores import choose_sides, most_alike, refuse_scans, step_scores
from edgeprune_passes.scores import kept_sizes, merge_into
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site


@dataclass(frozen=True, slots=True)
class SsmDelta:
    """Score of token t: mean over channels of the scans' step; the others merge into kept ones. Needs selective scans.

    Steps of the two directions are added up, the backward one flipped back: how far the state opens to a token. The
    tokens with the highest are kept, as many before the class token as behind it, in their order. Each of the others is
    averaged into the kept patch token whose stream is most like its own by cosine, on either side, weighted by how many
    tokens each stands for.

    Attributes:
        merge: whether the others are merged into kept ones, rather than dropped.

    Refuses: `not-applicable` where the block has no selective scan. No cut inside the block where tokens merge.
    Cost: T * E additions for E channels, two TopK of N / 2, two of K / 2 to restore the order; to merge, R * K * D MACs
        for the similarities and as many for the means.
    Source: MTR, arXiv 2507.14042; its targets are some of the kept tokens, here all but the class token.
    """

    name: ClassVar[str] = "ssm-delta"
    source: ClassVar[str] = "MTR, arXiv 2507.14042"
    anywhere: ClassVar[bool] = True
    merge: bool = True

    @property
    def merges(self) -> bool:
        """By its option."""
        return self.merge

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Without a scan there is no step."""
        del prefix
        return refuse_scans(block)

    def fewest(self, patches: int, prefix: int) -> int:
        """One."""
        del patches, prefix
        return 1

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the score, keep its highest entries, and merge the others."""
        chosen = choose_sides(site, tape, step_scores(site, tape), keep)
        if chosen.others is None or not self.merge:
            return Selection(chosen.index, size=kept_sizes(site, tape, chosen.index))
        into = most_alike(site, tape, chosen.patches, chosen.others)
        merge, size = merge_into(site, tape, chosen.index, (chosen.others, into))
        return Selection(chosen.index, merge, size, covers=True)
