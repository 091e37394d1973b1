"""Merge what costs least, in trees: each token may go into any that weighs more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes._layout import reshape, to_heads
from edgeprune_passes._lengths import lengthened
from edgeprune_passes._rows import gather_rows
from edgeprune_passes.scores import (
    ascending,
    class_row,
    merge_into,
    patches_of,
    refuse_class_row,
    unit,
)
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site

# Above every loss, which is below four times the number of patch tokens for floor 1; representable in fp16.
_NEVER = 3e4


@dataclass(frozen=True, slots=True)
class WardMerge:
    """Each token may go into any of larger weight; those that lose least by Ward's criterion go.

    With weight w_i = floor * size_i + N * a_i, a the class token's attention (without one w = size), the loss of i into
    j is (1 - s_ij) * w_i w_j / (w_i + w_j), and s the cosine of the keys of all heads, or of the stream.
    The R tokens whose smallest loss is smallest merge; where the receiver goes itself, they follow it to the root of
    their tree. A group is its mean, at the mean length of its members; log(size) goes to later logits.

    Attributes:
        floor: what a token that the class token ignores weighs for each original token in it.

    Refuses: nothing.
    Cost: N^2 * D MACs for the similarities, T * D for the class row, K * R * D for the merge, five TopK.
    Source: our own. Ward's criterion: doi 10.1080/01621459.1963.10500845; sizes are ToMe's (arXiv 2210.09461), lengths
        after ToFu (arXiv 2312.01026).
    """

    name: ClassVar[str] = "ward-merge"
    source: ClassVar[str] = "edgeprune, after ToMe (arXiv 2210.09461) and ToFu (arXiv 2312.01026)"
    merges: ClassVar[bool] = True
    floor: float = 1.0

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Never: without a class token or keys it does with less."""
        del block, prefix
        return None

    def fewest(self, patches: int, prefix: int) -> int:
        """One: trees may be of any depth."""
        del patches, prefix
        return 1

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write weights, losses, trees and the merge."""
        removed = site.patches - keep
        weight, order = _sorted(tape, self._weights(site, tape))
        order = order if site.prefix == 0 else tape.op("Add", order, tape.ints([site.prefix]))
        gain, partner = _best(tape, _gains(tape, _alike(site, tape, order), weight))
        by_gain = _sorted(tape, gain)[1]
        going = tape.slice(by_gain, 1, 0, removed)
        staying = tape.op("GatherElements", order, tape.slice(by_gain, 1, removed, site.patches), axis=1)
        index = _behind_prefix(site, tape, ascending(tape, staying))
        root = tape.op("GatherElements", _roots(tape, by_gain, partner, removed), going, axis=1)
        source, into = (tape.op("GatherElements", order, places, axis=1) for places in (going, root))
        merge, size = merge_into(site, tape, index, (source, into))
        return Selection(index, lengthened(site, tape, index, merge), size, covers=True)

    def _weights(self, site: Site, tape: Tape) -> ir.Value:
        """Weight of each patch token, [B, N]."""
        if site.size is None:
            sizes = tape.constant(np.ones((site.batch, site.patches), np.float32))
        else:
            sizes = patches_of(site, tape, site.size, 1)
        if refuse_class_row(site.block, site.prefix) is not None:
            return sizes
        total = tape.reduce("ReduceSum", sizes, 1, keepdims=True)
        row = tape.op("Mul", class_row(site, tape), total)
        return tape.op("Add", row, sizes if self.floor == 1 else tape.op("Mul", sizes, tape.scalar(self.floor)))


def _behind_prefix(site: Site, tape: Tape, patches: ir.Value) -> ir.Value:
    """Positions of patch tokens in the stream behind those of the prefix tokens, [B, P + K]."""
    if site.prefix == 0:
        return tape.op("Identity", patches, name="index")
    first = np.tile(np.arange(site.prefix, dtype=np.int64), (site.batch, 1))
    return tape.op("Concat", tape.constant(first), patches, axis=1, name="index")


def _sorted(tape: Tape, scores: ir.Value) -> tuple[ir.Value, ...]:
    """Scores [B, N], highest first, and where each stood."""
    count = tape.ints([tape.shape(scores)[1]])
    return tape.ops("TopK", scores, count, outputs=2, axis=-1, largest=1, sorted=1, name="rank")


def _alike(site: Site, tape: Tape, order: ir.Value) -> ir.Value:
    """Cosines of the keys of all heads, or of the stream where keys are not found, of tokens in an order: [B, N, N]."""
    rows = site.stream
    if site.block.attentions and site.block.attention.key is not None:
        heads = to_heads(tape, site.block.attention.key, site.batch, transposed=True)
        _, count, _, size = tape.shape(heads)
        joined = tape.op("Transpose", heads, perm=[0, 2, 1, 3])
        rows = reshape(tape, joined, [site.batch, site.tokens, count * size])
    ordered = unit(tape, gather_rows(tape, rows, order))
    return tape.op("MatMul", ordered, tape.op("Transpose", ordered, perm=[0, 2, 1]))


def _gains(tape: Tape, alike: ir.Value, weight: ir.Value) -> ir.Value:
    """Minus the loss of each token into each in front of it, [B, N, N]; tokens stand by weight, heaviest first."""
    inverse = tape.op("Reciprocal", weight)
    # w_i w_j / (w_i + w_j) = 1 / (1 / w_i + 1 / w_j)
    both = tape.op("Add", tape.op("Unsqueeze", inverse, tape.ints([2])), tape.op("Unsqueeze", inverse, tape.ints([1])))
    gain = tape.op("Div", tape.op("Sub", alike, tape.scalar(1.0)), both)
    patches = tape.shape(weight)[1]
    behind = np.triu(np.full((patches, patches), -_NEVER, np.float32))
    return tape.op("Add", gain, tape.constant(behind[None]))


def _best(tape: Tape, gain: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The highest gain of each token, and where it is had: [B, N] each."""
    both = tape.ops("TopK", gain, tape.ints([1]), outputs=2, axis=-1, largest=1, sorted=1)
    value, place = (tape.op("Squeeze", found, tape.ints([2])) for found in both)
    return value, place


def _roots(tape: Tape, by_gain: ir.Value, partner: ir.Value, removed: int) -> ir.Value:
    """Where each ends up, [B, N]: partners of the first `removed` are followed, doubling the distance at each step."""
    batch, patches = tape.shape(by_gain)
    rank = tape.ops("TopK", by_gain, tape.ints([patches]), outputs=2, axis=-1, largest=0, sorted=1)[1]
    goes = tape.op("Less", rank, tape.ints([removed]))
    everyone = np.tile(np.arange(patches, dtype=np.int64), (batch, 1))
    root = tape.op("Where", goes, partner, tape.constant(everyone))
    # A path passes every going token at most once.
    for _ in range(removed.bit_length()):
        root = tape.op("GatherElements", root, root, axis=1)
    return root
