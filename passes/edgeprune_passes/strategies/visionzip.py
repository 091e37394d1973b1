"""Keep the tokens that receive most attention, and merge all others into a few contextual ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes._layout import reshape, to_heads, transpose
from edgeprune_passes._rows import gather_rows
from edgeprune_passes.received import check_score, received, refuse_received
from edgeprune_passes.scores import ascending, merge_into, ranked, refuse_keys, similarity, with_prefix
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site


@dataclass(frozen=True, slots=True)
class Visionzip:
    """Dominant tokens: the highest scores. Contextual ones: of the others, in their order, every n-th is a target.

    The rest merges into the target whose keys (all heads) are most similar by cosine; a target becomes the mean of its
    group. Targets stand at positions floor(j * R / C), j = 0..C-1, of the R tokens that are not dominant. The published
    code adds the mean of the others to the target and puts contextual tokens last; here a group is a mean, in order.

    Attributes:
        contextual: share of the kept tokens that are contextual, in [0, 1); 10 of 64 in the paper.
        score: as of `fopru-rank`.
        threshold: as of `fopru-rank`.

    Refuses: as `fopru-rank`.
    Cost: that of the score, R * C * D MACs for similarities and again for the merge, TopK of N and of the rest.
    Source: VisionZip, CVPR 2025, arXiv 2412.04467.
    """

    name: ClassVar[str] = "visionzip"
    source: ClassVar[str] = "VisionZip, arXiv 2412.04467"
    merges: ClassVar[bool] = True
    contextual: float = 0.15625
    score: str = "auto"
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Check the name of the score."""
        check_score(self.score)

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Needs keys, queries, and a class token for its row."""
        return refuse_received(block, prefix, self.score) or refuse_keys(block)

    def fewest(self, patches: int, prefix: int) -> int:
        """One dominant and one contextual token."""
        del prefix
        return min(2, patches)

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the ranking, the matching and the merge."""
        targets = min(max(1, round(self.contextual * keep)), keep - 1)
        dominant = keep - targets
        order = ranked(tape, received(site, tape, self.score, self.threshold), site.patches)
        first = tape.slice(order, 1, 0, dominant)
        rest = ascending(tape, tape.slice(order, 1, dominant, site.patches))
        spots = np.arange(targets) * (site.patches - dominant) // targets
        others = np.setdiff1d(np.arange(site.patches - dominant), spots)
        centres = tape.op("Gather", rest, tape.constant(spots.astype(np.int64)), axis=1)
        sources = tape.op("Gather", rest, tape.constant(others.astype(np.int64)), axis=1)
        index = with_prefix(site, tape, ascending(tape, tape.op("Concat", first, centres, axis=1)))
        shift = tape.ints([site.prefix])
        source, centre = tape.op("Add", sources, shift), tape.op("Add", centres, shift)
        into = tape.op("GatherElements", centre, self._nearest(site, tape, source, centre), axis=1)
        merge, size = merge_into(site, tape, index, (source, into))
        return Selection(index, merge, size, covers=True)

    @staticmethod
    def _nearest(site: Site, tape: Tape, source: ir.Value, centre: ir.Value) -> ir.Value:
        """For each source the position of its most similar target, by the keys of all heads."""
        key = site.block.attention.key
        assert key is not None
        heads_BHTD = to_heads(tape, key, site.batch, transposed=True)
        tokens_BTHD = transpose(tape, heads_BHTD, [0, 2, 1, 3])
        keys = reshape(tape, tokens_BTHD, [site.batch, site.tokens, int(np.prod(tape.shape(tokens_BTHD)[2:]))])
        alike = similarity(tape, gather_rows(tape, keys, source), gather_rows(tape, keys, centre))
        return tape.op("ArgMax", alike, axis=2, keepdims=0)
