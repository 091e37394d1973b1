"""Zero-TPrune: tokens vote for tokens, look-alikes of important tokens go, then the unimportant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune_passes._layout import to_heads
from edgeprune_passes._rows import gather_rows
from edgeprune_passes.scores import keep_top, patches_of, probabilities, ranked, refuse_keys, similarity

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Selection, Site

_BARRED = -1.0


@dataclass(frozen=True, slots=True)
class ZeroTprune:
    """An importance vote, a similarity stage, an importance stage.

    Vote: s <- A_h^T s per head, from a vector in which the class token weighs sqrt(N) times a patch token. Head
    aggregation (EIR): root mean square over heads. Head filter (VHF): on scores of mean 1, heads whose variance over
    the tokens lies outside [v_min, v_max] are left out; if none is left, all count.
    Similarity stage: after one vote, of the less important half drop those whose key is most like a key of the other.
    Importance stage: vote again among the survivors, keep the highest.

    Attributes:
        votes: rounds of voting in the importance stage, 1 to 5; one is as good as many, and cheap.
        similar_share: share of the removed tokens that go by similarity.
        v_min: lower bound of a head's variance.
        v_max: upper bound of a head's variance.

    Refuses: `not-applicable` where the keys are not found.
    Cost: H * T^2 MACs a vote and (N/2)^2 * D for the similarities; reads the probabilities, so that the attention of
        the block is not fused.
    Source: Zero-TPrune, arXiv 2305.17328, section 3. The scale of the variance and the vote among survivors are ours.
    """

    name: ClassVar[str] = "zero-tprune"
    source: ClassVar[str] = "Zero-TPrune, arXiv 2305.17328"
    merges: ClassVar[bool] = False
    votes: int = 1
    similar_share: float = 0.5
    v_min: float = 0.01
    v_max: float = 0.7

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Needs the keys, and a sane number of votes."""
        del prefix
        if not 1 <= self.votes <= 5:
            return Refusal(RefusalCode.NOT_APPLICABLE, f"votes must be 1 to 5, not {self.votes}")
        return refuse_keys(block)

    def fewest(self, patches: int, prefix: int) -> int:
        """One."""
        del patches, prefix
        return 1

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the stages."""
        probs = probabilities(site, tape)
        start = np.ones((1, 1, 1, site.tokens), np.float32)
        if site.prefix:
            start[..., 0] = np.sqrt(site.patches)
        vote = tape.constant(start / start.sum())
        similar = min(round(self.similar_share * (site.patches - keep)), site.patches // 2)
        alive = None
        if similar:
            first = self._importance(site, tape, tape.op("MatMul", vote, probs), None)
            alive = self._survivors(site, tape, first, similar)
        scores = self._importance(site, tape, self._vote(tape, vote, probs, alive, site), alive)
        if alive is not None:
            dead = tape.op("Sub", patches_of(site, tape, alive, 1), tape.scalar(1.0))
            scores = tape.op("Add", scores, tape.op("Mul", dead, tape.scalar(-_BARRED * 1e4)))
        return keep_top(site, scores, keep, tape)

    def _vote(self, tape: Tape, vote: ir.Value, probs: ir.Value, alive: ir.Value | None, site: Site) -> ir.Value:
        """[B, H, 1, T] after all rounds, each renormalised among the survivors."""
        mask = None if alive is None else tape.op("Reshape", alive, tape.ints([site.batch, 1, 1, site.tokens]))
        for _ in range(self.votes):
            if mask is not None:
                vote = tape.op("Mul", vote, mask)
            vote = tape.op("MatMul", vote, probs)
            vote = vote if mask is None else tape.op("Mul", vote, mask)
            vote = tape.op("Div", vote, tape.reduce("ReduceSum", vote, 3, keepdims=True))
        return vote

    def _importance(self, site: Site, tape: Tape, vote: ir.Value, alive: ir.Value | None) -> ir.Value:
        """EIR over the heads that VHF lets pass, on scores of mean one over the living: fp32 [B, N]."""
        heads = tape.shape(vote)[1]
        votes = patches_of(site, tape, tape.op("Reshape", vote, tape.ints([site.batch, heads, site.tokens])), 2)
        if alive is None:
            count = tape.scalar(float(site.patches))
            living = None
        else:
            living = tape.op("Unsqueeze", patches_of(site, tape, alive, 1), tape.ints([1]))
            count = tape.reduce("ReduceSum", living, 2, keepdims=True)
        mean = tape.op("Div", tape.reduce("ReduceSum", votes, 2, keepdims=True), count)
        scores = tape.op("Div", votes, mean)
        squares = tape.op("Mul", scores, scores)
        off = tape.op("Sub", scores, tape.scalar(1.0))
        off = off if living is None else tape.op("Mul", off, living)
        spread = tape.op("Div", tape.reduce("ReduceSum", tape.op("Mul", off, off), 2, keepdims=True), count)
        weight = self._head_weight(tape, spread)
        return tape.reduce("ReduceSum", tape.op("Mul", squares, weight), 1)

    def _head_weight(self, tape: Tape, variance: ir.Value) -> ir.Value:
        """Weight of each head [B, H, 1]: equal among those within bounds, or among all if none is; they sum to one."""
        inside = tape.op(
            "And",
            tape.op("GreaterOrEqual", variance, tape.scalar(self.v_min)),
            tape.op("LessOrEqual", variance, tape.scalar(self.v_max)),
        )
        weight = tape.op("Cast", inside, to=1)
        some = tape.op("Greater", tape.reduce("ReduceSum", weight, 1, keepdims=True), tape.scalar(0.0))
        weight = tape.op("Where", some, weight, tape.scalar(1.0))
        return tape.op("Div", weight, tape.reduce("ReduceSum", weight, 1, keepdims=True))

    def _survivors(self, site: Site, tape: Tape, scores: ir.Value, count: int) -> ir.Value:
        """fp32 [B, T], zero for the `count` tokens of the less important half that are most like one of the other."""
        half = site.patches // 2
        order = ranked(tape, scores, site.patches)
        upper = tape.op("Add", tape.slice(order, 1, 0, site.patches - half), tape.ints([site.prefix]))
        lower = tape.op("Add", tape.slice(order, 1, site.patches - half, site.patches), tape.ints([site.prefix]))
        key = self._keys(site, tape)
        alike = tape.reduce(
            "ReduceMax", similarity(tape, gather_rows(tape, key, lower), gather_rows(tape, key, upper)), 2
        )
        gone = tape.op("GatherElements", lower, ranked(tape, alike, count), axis=1)
        everyone = tape.constant(np.arange(site.tokens, dtype=np.int64).reshape(1, 1, -1))
        equal = tape.op("Equal", tape.op("Unsqueeze", gone, tape.ints([-1])), everyone)
        dead = tape.reduce("ReduceMax", tape.op("Cast", equal, to=1), 1)
        return tape.op("Sub", tape.scalar(1.0), dead)

    def _keys(self, site: Site, tape: Tape) -> ir.Value:
        """Keys of all heads side by side, [B, T, H*Dh]."""
        key = site.block.attention.key
        assert key is not None
        key = to_heads(tape, key, site.batch, transposed=True)
        batch, heads, tokens, size = tape.shape(key)
        key = tape.op("Transpose", key, perm=[0, 2, 1, 3])
        return tape.op("Reshape", key, tape.ints([batch, tokens, heads * size]))
