"""Keep the patch tokens that the class token attends to most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeprune_passes.scores import class_row, keep_top, refuse_class_row

if TYPE_CHECKING:
    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Selection, Site


@dataclass(frozen=True, slots=True)
class ClsTopk:
    """Score of patch token i: mean over heads of softmax(q_cls K^T)[i]; keep the highest.

    Refuses: `no-class-token`, `not-applicable` where queries and keys are not found.
    Cost: T*D MACs for the row, one TopK of N, one of K to restore the order.
    Source: EViT, arXiv 2202.07800, section 3, without the fused token.
    """

    name: ClassVar[str] = "cls-topk"
    source: ClassVar[str] = "EViT, arXiv 2202.07800"
    merges: ClassVar[bool] = False

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Without a class token there is no row."""
        return refuse_class_row(block, prefix)

    def fewest(self, patches: int, prefix: int) -> int:
        """One."""
        del patches, prefix
        return 1

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the class token's row and keep its highest entries."""
        return keep_top(site, class_row(site, tape), keep, tape)
