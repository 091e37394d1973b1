"""Keep the patch tokens that are least alike: a greedy max-min choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes.scores import ascending, kept_sizes, patches_of, similarity, with_prefix
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site

# More than two cosines can differ by: a chosen token is never the least alike again, not even among equal ones.
_TAKEN = 4.0


@dataclass(frozen=True, slots=True)
class Divprune:
    """First the token whose most similar other one is least similar, then always the one least similar to all chosen.

    s_ij = cosine of the tokens' features; i_1 = argmin_i max_{j != i} s_ij, i_k = argmin_i max_{j chosen} s_ij: greedy
    max-min of the distances 1 - s. No score is needed, and near-duplicates never both stay. The published method takes
    the features behind the projector; here those in front of it, so that the projector shrinks.

    Refuses: nothing.
    Cost: N^2*D MACs for the cosines once, then K steps of three small operators: a loop, written out.
    Source: DivPrune, CVPR 2025, arXiv 2503.02175.
    """

    name: ClassVar[str] = "divprune"
    source: ClassVar[str] = "DivPrune, arXiv 2503.02175"
    merges: ClassVar[bool] = False

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Never."""
        del block, prefix
        return None

    def fewest(self, patches: int, prefix: int) -> int:
        """One."""
        del patches, prefix
        return 1

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the cosines and the steps."""
        if keep == site.patches:
            chosen = tape.constant(np.tile(np.arange(keep, dtype=np.int64), (site.batch, 1)))
        else:
            chosen = ascending(tape, self._steps(site, keep, tape))
        index = with_prefix(site, tape, chosen)
        return Selection(index, size=kept_sizes(site, tape, index))

    def _steps(self, site: Site, keep: int, tape: Tape) -> ir.Value:
        """The chosen patches in the order of choice, int64 [B, K]."""
        features = patches_of(site, tape, site.stream, 1)
        alike_BNN = similarity(tape, features, features)
        own = tape.constant(_TAKEN * np.eye(site.patches, dtype=np.float32)[None])
        nearest = tape.reduce("ReduceMax", tape.op("Sub", alike_BNN, own), 2)
        barred_BNN = tape.op("Add", alike_BNN, own, name="alike")
        chosen = [tape.op("ArgMin", nearest, axis=1, keepdims=1, name="chosen")]
        closest = self._row(tape, barred_BNN, chosen[0])
        while len(chosen) < keep:
            chosen.append(tape.op("ArgMin", closest, axis=1, keepdims=1, name="chosen"))
            if len(chosen) < keep:
                closest = tape.op("Max", closest, self._row(tape, barred_BNN, chosen[-1]), name="closest")
        return tape.op("Concat", *chosen, axis=1)

    @staticmethod
    def _row(tape: Tape, alike_BNN: ir.Value, chosen: ir.Value) -> ir.Value:
        """Similarities to one token of each sample, [B, N]."""
        if tape.shape(alike_BNN)[0] == 1:
            flat = tape.op("Squeeze", alike_BNN, tape.ints([0]))
            return tape.op("Gather", flat, tape.op("Squeeze", chosen, tape.ints([0])), axis=0)
        return tape.op("GatherND", alike_BNN, chosen, batch_dims=1)
