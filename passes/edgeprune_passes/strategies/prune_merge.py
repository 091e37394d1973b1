"""Drop the least important tokens, merge the next ones into their look-alikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeprune_passes._rows import gather_rows
from edgeprune_passes.scores import (
    ascending,
    class_row,
    kept_sizes,
    merge_into,
    ranked,
    refuse_class_row,
    similarity,
    with_prefix,
)
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site


@dataclass(frozen=True, slots=True)
class PruneMerge:
    """Rank patch tokens by the class token's attention; keep the first, merge the middle, drop the last.

    Of the R = N - K tokens that go, the `merge_share` with the higher scores merge, each into the kept patch token
    whose stream is most similar by cosine. Its size counts times that cosine, if `scale_sizes`; log(size) is added to
    later logits.

    Attributes:
        merge_share: share of the removed tokens that are merged, in [0, 1]; the others are dropped.
        scale_sizes: multiply the size of a merged token by its similarity.

    Refuses: `no-class-token`, `not-applicable` where queries and keys are not found.
    Cost: T*D MACs for the row, 2 * K * R * D for similarity and merge, two TopK.
    Source: DiffRate, arXiv 2305.17997, section 3.2, with counts fixed by the plan.
    """

    name: ClassVar[str] = "prune-merge"
    source: ClassVar[str] = "DiffRate, arXiv 2305.17997"
    merges: ClassVar[bool] = True
    merge_share: float = 0.75
    scale_sizes: bool = True

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Without a class token there is no ranking."""
        return refuse_class_row(block, prefix)

    def fewest(self, patches: int, prefix: int) -> int:
        """One."""
        del patches, prefix
        return 1

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the ranking, the matching and the merge."""
        merged = round(self.merge_share * (site.patches - keep))
        order = ranked(tape, class_row(site, tape), keep + merged)
        index = with_prefix(site, tape, ascending(tape, tape.slice(order, 1, 0, keep)))
        if merged == 0:
            return Selection(index, size=kept_sizes(site, tape, index))
        source = tape.op("Add", tape.slice(order, 1, keep, keep + merged), tape.ints([site.prefix]))
        targets = tape.slice(index, 1, site.prefix, site.prefix + keep)
        alike = similarity(tape, gather_rows(tape, site.stream, source), gather_rows(tape, site.stream, targets))
        into = tape.op("GatherElements", targets, tape.op("ArgMax", alike, axis=2, keepdims=0), axis=1)
        scale = None
        if self.scale_sizes:
            # A token unlike every kept one adds nothing: sizes stay positive, since their log is taken.
            scale = tape.op("Max", tape.reduce("ReduceMax", alike, 2), tape.scalar(0.0))
        merge, size = merge_into(site, tape, index, (source, into), scale=scale)
        return Selection(index, merge, size, covers=merged == site.patches - keep)
