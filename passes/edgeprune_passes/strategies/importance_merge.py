"""Merge the tokens that are missed least: unimportant ones that have a look-alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes._rows import gather_rows
from edgeprune_passes.scores import (
    ascending,
    class_row,
    merge_into,
    patches_of,
    ranked,
    refuse_class_row,
    unit,
    with_prefix,
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
    """Rank patch tokens by the class token's attention; every second rank may merge into the most similar of the rest.

    With importance a_i = N * (mean over heads of softmax(q_cls K^T)[i]) + floor, merging token i loses
    a_i * (1 - max_j cos(x_i, x_j)); the R = N - K tokens that lose least merge. The mean of a group is weighted by a;
    sizes add up, and log(size) is added to later logits. Prefix tokens neither merge nor are merged into.

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
        importance = self._importance(site, tape)
        values, order = tape.ops(
            "TopK", importance, tape.ints([site.patches]), outputs=2, axis=-1, largest=1, sorted=1, name="rank"
        )
        targets, givers = (_alternate(tape, order, first) for first in (0, 1))
        alike = self._similarity(site, tape, givers, targets)
        gain = tape.op(
            "Sub", tape.reduce("ReduceMax", alike, 2), tape.scalar(1.0)
        )  # minus the loss: the highest go first
        by_loss = ranked(tape, tape.op("Mul", gain, _alternate(tape, values, 1)), site.patches // 2)
        removed = site.patches - keep
        going = tape.slice(by_loss, 1, 0, removed)
        kept = targets
        if removed < site.patches // 2:
            staying = tape.slice(by_loss, 1, removed, site.patches // 2)
            kept = tape.op("Concat", targets, tape.op("GatherElements", givers, staying, axis=1), axis=1)
        kept = ascending(tape, kept)
        partner = tape.op("GatherElements", tape.op("ArgMax", alike, axis=2, keepdims=0), going, axis=1)
        into = _moved(site, tape, tape.op("GatherElements", targets, partner, axis=1))
        index = with_prefix(site, tape, kept)
        source = _moved(site, tape, tape.op("GatherElements", givers, going, axis=1))
        weights = _padded(site, tape, importance)
        merge, size = merge_into(site, tape, index, (source, into), importance=weights)
        return Selection(index, merge, size, covers=True)

    def _importance(self, site: Site, tape: Tape) -> ir.Value:
        """Importance of each patch token, [B, N]."""
        return tape.op("Add", class_row(site, tape), tape.scalar(self.floor / site.patches))

    def _similarity(self, site: Site, tape: Tape, givers: ir.Value, targets: ir.Value) -> ir.Value:
        """Cosines of the stream, [B, givers, targets]; each token is normalised once."""
        stream = unit(tape, patches_of(site, tape, site.stream, 1))
        others = tape.op("Transpose", gather_rows(tape, stream, targets), perm=[0, 2, 1])
        return tape.op("MatMul", gather_rows(tape, stream, givers), others)


def _alternate(tape: Tape, ranks: ir.Value, first: int) -> ir.Value:
    """Every second entry of [B, N], from the first or the second on."""
    count = tape.shape(ranks)[1]
    return tape.op("Slice", ranks, tape.ints([first]), tape.ints([count]), tape.ints([1]), tape.ints([2]))


def _moved(site: Site, tape: Tape, positions: ir.Value) -> ir.Value:
    """Positions among the patch tokens as positions in the stream."""
    return tape.op("Add", positions, tape.ints([site.prefix]))


def _padded(site: Site, tape: Tape, importance: ir.Value) -> ir.Value:
    """[B, T]: ones for the prefix tokens, which never average."""
    ones = tape.constant(np.ones((site.batch, site.prefix), np.float32))
    return tape.op("Concat", ones, importance, axis=1)
