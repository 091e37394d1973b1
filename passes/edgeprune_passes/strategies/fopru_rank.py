"""Keep the patch tokens that receive most attention at the layer that a language model reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeprune_passes.received import check_score, received, refuse_received
from edgeprune_passes.scores import keep_top

if TYPE_CHECKING:
    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Selection, Site


@dataclass(frozen=True, slots=True)
class FopruRank:
    """Score of patch token i: the attention that it receives; keep the K highest, in their order.

    Attributes:
        score: `class-row` mean over heads of softmax(q_cls K^T)[i], `column-mean` mean over heads and queries of
            A[h, q, i], `global-queries` that over the queries which receive more than `threshold` times the mean;
            `auto` takes the row where there is a class token, else the columns.
        threshold: of `global-queries`.

    Refuses: `no-class-token` for `class-row` without one, `not-applicable` where queries and keys are not found.
    Cost: T*D MACs for the row, T^2*D for the columns; one TopK of N, one of K to restore the order.
    Source: FoPru, arXiv 2411.14164, rank strategy; global queries VFlowOpt, ICCV 2025.
    """

    name: ClassVar[str] = "fopru-rank"
    source: ClassVar[str] = "FoPru, arXiv 2411.14164"
    merges: ClassVar[bool] = False
    score: str = "auto"
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Check the name of the score."""
        check_score(self.score)

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Needs queries and keys, and a class token for its row."""
        return refuse_received(block, prefix, self.score)

    def fewest(self, patches: int, prefix: int) -> int:
        """One."""
        del patches, prefix
        return 1

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the scores and keep the highest."""
        return keep_top(site, received(site, tape, self.score, self.threshold), keep, tape)
