"""Merge what costs least, in trees: each token may go into any that weighs more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes._layout import reshape, to_heads
from edgeprune_passes._lengths import lengthened
from edgeprune_passes.scores import (
    ascending,
    class_row,
    merge_into,
    patches_of,
    refuse_class_row,
    similarity,
    sizes_of,
    with_prefix,
)
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site

# Above every loss, which is below twice the number of patch tokens for floor 1; representable in fp16.
_NEVER = 3e4


@dataclass(frozen=True, slots=True)
class WardMerge:
    """Each token may go into any of larger weight; those that lose least by Ward's criterion go.

    With weight w_i = floor * size_i + N * a_i, a the class token's attention (without one w = size), the loss of i into
    j is (1 - s_ij) * w_i w_j / (w_i + w_j), and s the mean of the cosines of the stream and of the keys of all heads.
    The R tokens whose smallest loss is smallest merge; where the receiver goes itself, they follow it to the root of
    their tree. A group is the mean weighted by w, at the mean length of its members; log(size) goes to later logits.

    Attributes:
        floor: what a token that the class token ignores weighs for each original token in it.

    Refuses: nothing.
    Cost: N^2 * 2D MACs for the similarities, T * D for the class row, K * R * D for the merge, two TopK.
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
        weight = self._weights(site, tape)
        gain = _gains(site, tape, weight)
        order = tape.ops(
            "TopK",
            tape.reduce("ReduceMax", gain, 2),
            tape.ints([site.patches]),
            outputs=2,
            axis=-1,
            largest=1,
            sorted=1,
        )[1]
        going = tape.slice(order, 1, 0, removed)
        index = with_prefix(site, tape, ascending(tape, tape.slice(order, 1, removed, site.patches)))
        root = _roots(site, tape, going, tape.op("ArgMax", gain, axis=2, keepdims=0))
        into = tape.op("Add", tape.op("GatherElements", root, going, axis=1), tape.ints([site.prefix]))
        source = tape.op("Add", going, tape.ints([site.prefix]))
        ones = tape.constant(np.ones((site.batch, site.prefix), np.float32))
        importance = weight if site.prefix == 0 else tape.op("Concat", ones, weight, axis=1)
        merge, size = merge_into(site, tape, index, (source, into), importance=importance)
        return Selection(index, lengthened(site, tape, index, merge), size, covers=True)

    def _weights(self, site: Site, tape: Tape) -> ir.Value:
        """Weight of each patch token, [B, N]."""
        everyone = tape.constant(np.tile(np.arange(site.prefix, site.tokens, dtype=np.int64), (site.batch, 1)))
        sizes = sizes_of(site, tape, everyone)
        if refuse_class_row(site.block, site.prefix) is not None:
            return sizes
        total = tape.reduce("ReduceSum", sizes, 1, keepdims=True)
        row = tape.op("Mul", class_row(site, tape), total)
        return tape.op("Add", row, tape.op("Mul", sizes, tape.scalar(self.floor)))


def _gains(site: Site, tape: Tape, weight: ir.Value) -> ir.Value:
    """Minus the loss of each token into each of larger weight, [B, N, N]; of equal ones the first weighs more."""
    rows, columns = tape.op("Unsqueeze", weight, tape.ints([2])), tape.op("Unsqueeze", weight, tape.ints([1]))
    share = tape.op("Div", tape.op("Mul", rows, columns), tape.op("Add", rows, columns))
    gain = tape.op("Mul", tape.op("Sub", _alike(site, tape), tape.scalar(1.0)), share)
    first = tape.constant(np.tri(site.patches, k=-1, dtype=bool)[None])
    level = tape.op("And", tape.op("Equal", rows, columns), first)
    allowed = tape.op("Or", tape.op("Less", rows, columns), level)
    return tape.op("Where", allowed, gain, tape.scalar(-_NEVER))


def _alike(site: Site, tape: Tape) -> ir.Value:
    """Mean of the cosines of the stream and of the keys, [B, N, N]; of the stream alone where keys are not found."""
    stream = patches_of(site, tape, site.stream, 1)
    alike = similarity(tape, stream, stream)
    if site.block.attention.key is None:
        return alike
    heads = to_heads(tape, site.block.attention.key, site.batch, transposed=True)
    shape = tape.shape(heads)
    joined = tape.op("Transpose", heads, perm=[0, 2, 1, 3])
    keys = patches_of(site, tape, reshape(tape, joined, [site.batch, site.tokens, shape[1] * shape[3]]), 1)
    return tape.op("Mul", tape.op("Add", alike, similarity(tape, keys, keys)), tape.scalar(0.5))


def _roots(site: Site, tape: Tape, going: ir.Value, partner: ir.Value) -> ir.Value:
    """The token that each ends up in, [B, N]: partners are followed, doubling the distance at each step."""
    everyone = np.arange(site.patches, dtype=np.int64)
    goes = tape.op("Equal", tape.op("Unsqueeze", going, tape.ints([-1])), tape.constant(everyone.reshape(1, 1, -1)))
    chosen = tape.op("Greater", tape.reduce("ReduceMax", tape.op("Cast", goes, to=1), 1), tape.scalar(0.0))
    root = tape.op("Where", chosen, partner, tape.constant(np.tile(everyone, (site.batch, 1))))
    # A path passes every going token at most once.
    for _ in range(tape.shape(going)[1].bit_length()):
        root = tape.op("GatherElements", root, root, axis=1)
    return root
