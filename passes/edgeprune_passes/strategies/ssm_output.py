"""Keep the patch tokens of which most comes out of the scans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeprune_passes.scan_scores import choose_sides, output_scores, refuse_scans
from edgeprune_passes.scores import kept_sizes
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site


@dataclass(frozen=True, slots=True)
class SsmOutput:
    """Score of token t: sum over channels of max(0, y_t), y what scans give; keep the highest. Needs selective scans.

    y is what the scans of the block give, both directions added up with the backward one flipped back, with the skip
    D * u and in front of the gate. As many patch tokens are kept before the class token as behind it, in their order.

    Refuses: `not-applicable` where the block has no selective scan. No cut inside the block: its scans must have run.
    Cost: T * E additions for E channels, two TopK of N / 2, two of K / 2 to restore the order.
    Source: ToP-ViM, arXiv 2409.18962, section 4; its published code scores the backward direction alone.
    """

    name: ClassVar[str] = "ssm-output"
    source: ClassVar[str] = "ToP-ViM, arXiv 2409.18962"
    anywhere: ClassVar[bool] = True
    merges: ClassVar[bool] = False
    late: ClassVar[str] = "its score is of what the scans of the block give, which would run behind the cut"

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Without a scan there is no output of one."""
        del prefix
        return refuse_scans(block)

    def fewest(self, patches: int, prefix: int) -> int:
        """One."""
        del patches, prefix
        return 1

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the score and keep its highest entries."""
        index = choose_sides(site, tape, output_scores(site, tape), keep).index
        return Selection(index, size=kept_sizes(site, tape, index))
