"""Merge the tokens that are missed least: unimportant ones that have a look-alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes._rows import gather_rows
from edgeprune_passes.scores import (
    alternate,
    ascending,
    class_row,
    lowest,
    merge_into,
    refuse_class_row,
    row_of,
    similarity,
)
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site


@dataclass(frozen=True, slots=True)
class ImportanceMerge:
    """Rank patch tokens by the class token's attention; every second rank may merge into the most similar of the others.

    With importance a_i = N * (mean over heads of softmax(q_cls K^T)[i]) + floor, merging token i loses
    a_i * (1 - max_j cos(x_i, x_j)); the R = N - K tokens that lose least merge. The mean of a group is weighted by a; sizes
    add up, and log(size) is added to later logits. Prefix tokens neither merge nor are merged into.

    Attributes:
        floor: importance of a token that the class token ignores, where 1 is the mean: others may attend to it.

    Refuses: `no-class-token`, `not-applicable` where queries and keys are not found.
    Cost: T*D MACs for the row, (N/2)^2 * D for the similarities, K * R * D for the merge, four TopK.
    Source: our own; the bipartite matching is ToMe's (arXiv 2210.09461), merging by class attention DiffRate's
        (arXiv 2305.17997).
    """

    name: ClassVar[str] = "importance-merge"
    source: ClassVar[str] = "edgeprune, after ToMe (arXiv 2210.09461) and DiffRate (arXiv 2305.17997)"
    merges: ClassVar[bool] = True
    floor: float = 0.3

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Without a class token there is no ranking."""
        return refuse_class_row(block, prefix)

    def fewest(self, patches: int, prefix: int) -> int:
        """Every second token can merge into the others."""
        del prefix
        return patches - patches // 2

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the ranking, the matching and the merge."""
        score = tape.op("Mul", class_row(site, tape), tape.scalar(float(site.patches)))
        score = tape.op("Add", score, tape.scalar(self.floor))
        values, order = tape.ops(
            "TopK", score, tape.ints([site.patches]), outputs=2, axis=-1, largest=1, sorted=1, name="rank"
        )
        order = tape.op("Add", order, tape.ints([site.prefix]))
        targets, target_weights = alternate(tape, order, 0), alternate(tape, values, 0)
        givers, giver_weights = alternate(tape, order, 1), alternate(tape, values, 1)
        alike = similarity(tape, gather_rows(tape, site.stream, givers), gather_rows(tape, site.stream, targets))
        loss = tape.op("Sub", tape.scalar(1.0), tape.reduce("ReduceMax", alike, 2))
        by_loss = lowest(tape, tape.op("Mul", giver_weights, loss))
        removed = site.patches - keep
        going = tape.slice(by_loss, 1, 0, removed)
        return self._merged(site, tape, (targets, target_weights), (givers, giver_weights), alike, by_loss, removed)
