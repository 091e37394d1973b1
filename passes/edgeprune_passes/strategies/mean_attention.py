"""Keep the patch tokens that receive most attention from all tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeprune_passes.scores import keep_top, patches_of, probabilities, refuse_unattended

if TYPE_CHECKING:
    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Selection, Site


@dataclass(frozen=True, slots=True)
class MeanAttention:
    """Score of patch token i: mean over heads and queries of A[h, q, i]; keep the highest. Needs no class token.

    Refuses: `not-applicable` where the block has no attention.
    Cost: one mean over [H, T]; reads the probabilities, so that the attention of the block is not fused.
    Source: SpAtten, arXiv 2012.09852, section III-A, of the present block alone.
    """

    name: ClassVar[str] = "mean-attention"
    source: ClassVar[str] = "SpAtten, arXiv 2012.09852"
    merges: ClassVar[bool] = False

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Without attention there is nothing to receive."""
        del prefix
        return refuse_unattended(block)

    def fewest(self, patches: int, prefix: int) -> int:
        """One."""
        del patches, prefix
        return 1

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the column means of the probabilities and keep the highest."""
        received = tape.reduce("ReduceMean", tape.reduce("ReduceMean", probabilities(site, tape), 2), 1)
        return keep_top(site, patches_of(site, tape, received, 1), keep, tape)
