"""Merge the most similar pairs of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes.scores import ascending, keys, merge_into, ranked, refuse_keys, similarity
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site

# Below every cosine, and representable in fp16: a barrier, not an infinity.
_NEVER = -1e4


@dataclass(frozen=True, slots=True)
class Tome:
    """Bipartite soft matching on keys: even tokens look for their most similar odd one, the closest pairs merge.

    The merged value is the mean weighted by sizes, and log(size) is added to later logits. Tokens keep their raster
    order, where the published code concatenates even and odd ones; prefix tokens neither merge nor are merged into.

    Refuses: `not-applicable` where the keys are not found.
    Cost: (T/2)^2 * Dh MACs for the similarities, K * R * D for the merge.
    Source: ToMe, arXiv 2210.09461, section 3.
    """

    name: ClassVar[str] = "tome"
    source: ClassVar[str] = "ToMe, arXiv 2210.09461"
    merges: ClassVar[bool] = True

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Needs the keys."""
        del prefix
        return refuse_keys(block)

    def fewest(self, patches: int, prefix: int) -> int:
        """Half of the tokens can merge into the other half."""
        evens = np.arange(patches + prefix)[::2]
        return patches - int((evens >= prefix).sum())

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the matching and the merge."""
        count = site.patches - keep
        evens, odds = np.arange(0, site.tokens, 2), np.arange(1, site.tokens, 2)
        matches = self._matches(site, tape, evens, odds)
        best = tape.reduce("ReduceMax", matches, 2)
        order = ranked(tape, best, len(evens))
        source = tape.slice(order, 1, 0, count)
        target = tape.op("GatherElements", tape.op("ArgMax", matches, axis=2, keepdims=0), source, axis=1)
        kept = ascending(tape, _positions(tape, tape.slice(order, 1, count, len(evens)), evens, odds, site.batch))
        index = tape.op("Identity", kept, name="index")
        into = tape.op("Gather", tape.constant(odds.astype(np.int64)), target)
        origin = tape.op("Gather", tape.constant(evens.astype(np.int64)), source)
        merge, size = merge_into(site, tape, index, (origin, into))
        return Selection(index, merge, size, covers=True)

    def _matches(self, site: Site, tape: Tape, evens: np.ndarray, odds: np.ndarray) -> ir.Value:
        """Similarity of even to odd tokens, [B, even, odd], with prefix tokens out of reach."""
        key = keys(site, tape)
        left = tape.op("Gather", key, tape.constant(evens.astype(np.int64)), axis=1)
        right = tape.op("Gather", key, tape.constant(odds.astype(np.int64)), axis=1)
        barred = np.zeros((1, len(evens), len(odds)), np.float32)
        barred[:, evens < site.prefix, :] = _NEVER
        barred[:, :, odds < site.prefix] = _NEVER
        return tape.op("Add", similarity(tape, left, right), tape.constant(barred))


def _positions(tape: Tape, unmerged: ir.Value, evens: np.ndarray, odds: np.ndarray, batch: int) -> ir.Value:
    """Stream positions of the unmerged even tokens and all odd ones, [B, K']."""
    stay = tape.op("Gather", tape.constant(evens.astype(np.int64)), unmerged)
    return tape.op("Concat", stay, tape.constant(np.tile(odds.astype(np.int64), (batch, 1))), axis=1)
