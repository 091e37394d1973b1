"""Merge tokens into clusters around a regular grid of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes._lengths import lengthened
from edgeprune_passes.scores import merge_into, patches_of, unit, with_prefix
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site

# Of the cosine, in the soft assignment of a round.
_TEMPERATURE = 0.02


@dataclass(frozen=True, slots=True)
class GridCluster:
    """Centroids start at a regular grid of tokens and move by soft k-means on cosines; each token goes to its nearest.

    s_ik = cos(x_i, c_k) - locality * |place_i - place_k|^2, c_k <- sum_i softmax_k(s_ik / 0.02) x_i / |x_i|, `rounds`
    times, then each token that is no start goes to argmax_k s_ik. A cluster is the mean weighted by sizes, at the mean
    length of its members. Behind a first cut the places are irregular: the starts are then evenly spaced in the order
    of the tokens, and locality does not count.

    Attributes:
        rounds: of moving the centroids.
        locality: what the squared distance in patches takes from the cosine.

    Refuses: nothing.
    Cost: (2 * rounds + 1) * N * K * D MACs, and K * R * D for the merge.
    Source: Expedit, arXiv 2210.01035, section 3.2.
    """

    name: ClassVar[str] = "grid-cluster"
    source: ClassVar[str] = "Expedit, arXiv 2210.01035"
    merges: ClassVar[bool] = True
    rounds: int = 3
    locality: float = 0.003

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Never."""
        del block, prefix
        return None

    def fewest(self, patches: int, prefix: int) -> int:
        """One."""
        del patches, prefix
        return 1

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the rounds, the assignment and the merge."""
        starts, apart = _starts(site, keep)
        others = np.setdiff1d(np.arange(site.patches), starts)
        every = unit(tape, patches_of(site, tape, site.stream, 1))
        centres = tape.op("Gather", every, tape.constant(starts), axis=1)
        far = tape.constant((-self.locality * apart).astype(np.float32)[None])
        for _ in range(self.rounds):
            logits = tape.op("Div", _scores(tape, every, centres, far), tape.scalar(_TEMPERATURE))
            shares = tape.op("Transpose", tape.op("Softmax", logits, axis=-1), perm=[0, 2, 1])
            centres = tape.op("MatMul", shares, every)
        rest = tape.op("Gather", every, tape.constant(others), axis=1)
        behind = tape.constant((-self.locality * apart[others]).astype(np.float32)[None])
        nearest = tape.op("ArgMax", _scores(tape, rest, centres, behind), axis=2, keepdims=0)
        index = with_prefix(site, tape, tape.constant(np.tile(starts, (site.batch, 1))))
        into = tape.op("Gather", tape.constant(starts + site.prefix), nearest)
        source = tape.op("Identity", tape.constant(np.tile(others + site.prefix, (site.batch, 1))))
        merge, size = merge_into(site, tape, index, (source, into))
        return Selection(index, lengthened(site, tape, index, merge), size, covers=True)


def _scores(tape: Tape, every: ir.Value, centres: ir.Value, far: ir.Value) -> ir.Value:
    cosines = tape.op("MatMul", every, tape.op("Transpose", unit(tape, centres), perm=[0, 2, 1]))
    return tape.op("Add", cosines, far)


def _starts(site: Site, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the clusters start, int64 [K] ascending, and squared distances [N, K] of all places to them."""
    rows, columns = site.grid or (0, 0)
    if rows * columns != site.patches:
        spaced = ((np.arange(keep) + 0.5) * site.patches / keep).astype(np.int64)
        return spaced, np.zeros((site.patches, keep))
    # As many rows of starts as make their distances equal both ways; some rows have one start more than others.
    lines = min(max(1, round(float(np.sqrt(keep * rows / columns))), -(-keep // columns)), rows, keep)
    ends = np.round(np.arange(lines + 1) * keep / lines).astype(int)
    places = []
    for line, count in enumerate(np.diff(ends)):
        across = ((np.arange(count) + 0.5) * columns / count).astype(int)
        places += [int((line + 0.5) * rows / lines) * columns + int(c) for c in across]
    starts = np.array(places, dtype=np.int64)
    at = np.stack(np.divmod(np.arange(site.patches), columns), 1)
    return starts, ((at[:, None] - at[starts][None]) ** 2).sum(-1).astype(float)
