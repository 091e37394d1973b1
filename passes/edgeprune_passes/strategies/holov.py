"""Spread the budget over contiguous crops, by how much each receives and how varied it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune.core.errors import PlanError
from edgeprune_passes.received import check_score, received, refuse_received
from edgeprune_passes.scores import ascending, kept_sizes, patches_of, ranked, unit, with_prefix
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site


@dataclass(frozen=True, slots=True)
class Holov:
    """Each crop gets a quota by its mean score; in a crop the tokens that receive most attention stay.

    a_i = attention that token i receives; v_i = variance over the tokens j of its crop of cos(x_i, x_j);
    score_i = a_i + alpha * v_i * mean(a) / mean(v); w_c = mean score of crop c. Quotas are seats by Webster's rule: the
    r-th best token of a crop (r = 0, 1, ...) claims w_c / (r + 1/2), and the K highest claims of all crops win. They
    sum to K for every image, and no crop gets more than it has tokens.

    Attributes:
        crops: contiguous parts of the sequence, of equal length up to one token.
        alpha: weight of the variance.
        score: as of `fopru-rank`.
        threshold: as of `fopru-rank`.

    Refuses: as `fopru-rank`.
    Cost: that of the score, N^2*D/crops MACs for the cosines, TopK of each crop and of N.
    Source: HoloV, arXiv 2510.02912; quotas by Webster's rule are our own.
    """

    name: ClassVar[str] = "holov"
    source: ClassVar[str] = "HoloV, arXiv 2510.02912"
    merges: ClassVar[bool] = False
    crops: int = 16
    alpha: float = 0.09
    score: str = "auto"
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Check the number of crops and the name of the score.

        Raises:
            PlanError: if either is none.
        """
        check_score(self.score)
        if self.crops < 1:
            msg = f"`crops` is {self.crops}, expected 1 or more"
            raise PlanError(msg, hint="16 crops are what was published")

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Needs queries and keys, and a class token for its row."""
        return refuse_received(block, prefix, self.score)

    def fewest(self, patches: int, prefix: int) -> int:
        """One."""
        del patches, prefix
        return 1

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the scores, the claims, and keep the tokens of the highest ones."""
        layout = _Crops.of(site.patches, min(self.crops, site.patches))
        attention = received(site, tape, self.score, self.threshold)
        claims = self._claims(site, tape, layout, attention)
        tokens = _by_rank(tape, layout, attention)
        won = ranked(tape, claims, keep)
        index = with_prefix(site, tape, ascending(tape, tape.op("GatherElements", tokens, won, axis=1)))
        return Selection(index, size=kept_sizes(site, tape, index))

    def _claims(self, site: Site, tape: Tape, layout: _Crops, attention: ir.Value) -> ir.Value:
        """What the r-th best token of each crop claims, [B, C * S]; less than nothing where there is no such token."""
        variance = _variances(site, tape, layout)
        scale = tape.op(
            "Div",
            tape.reduce("ReduceMean", attention, 1, keepdims=True),
            tape.op("Max", tape.reduce("ReduceMean", variance, 1, keepdims=True), tape.scalar(1e-12)),
        )
        varied = tape.op("Mul", tape.op("Mul", variance, scale), tape.scalar(self.alpha))
        weights_BC = layout.means(tape, tape.op("Add", attention, varied))
        places = np.arange(layout.longest, dtype=np.float32) + 0.5
        shares = np.where(layout.there, 1 / places, 0).astype(np.float32)[None]
        claims = tape.op("Mul", tape.op("Unsqueeze", weights_BC, tape.ints([2])), tape.constant(shares))
        claims = tape.op("Sub", claims, tape.constant((~layout.there).astype(np.float32)[None]))
        return layout.flat(tape, claims)


@dataclass(frozen=True, slots=True, eq=False)
class _Crops:
    """Crops of [B, N] as a padded grid [B, C, S]: `at` the token of each place, `there` whether it has one."""

    at: np.ndarray
    there: np.ndarray

    @classmethod
    def of(cls, patches: int, crops: int) -> _Crops:
        parts = np.array_split(np.arange(patches, dtype=np.int64), crops)
        longest = max(map(len, parts))
        at = np.stack([np.pad(part, (0, longest - len(part)), mode="edge") for part in parts])
        return cls(at, np.stack([np.arange(longest) < len(part) for part in parts]))

    @property
    def longest(self) -> int:
        """S."""
        return int(self.at.shape[1])

    def grid(self, tape: Tape, values: ir.Value) -> ir.Value:
        """[B, N, ...] as [B, C, S, ...]; places without a token repeat the crop's last one."""
        return tape.op("Gather", values, tape.constant(self.at), axis=1)

    def flat(self, tape: Tape, values: ir.Value) -> ir.Value:
        """[B, C, S] as [B, C * S]."""
        return tape.op("Reshape", values, tape.ints([tape.shape(values)[0], self.at.size]))

    def shares(self) -> np.ndarray:
        """[1, C, S]: one over the number of tokens of the crop, nothing where there is none."""
        weights = self.there / self.there.sum(axis=1, keepdims=True)
        return np.asarray(weights[None], dtype=np.float32)

    def means(self, tape: Tape, values: ir.Value) -> ir.Value:
        """Mean of [B, N] over each crop: [B, C]."""
        weighted = tape.op("Mul", self.grid(tape, values), tape.constant(self.shares()))
        return tape.reduce("ReduceSum", weighted, 2)


def _variances(site: Site, tape: Tape, layout: _Crops) -> ir.Value:
    """Variance over the tokens of its crop of the cosines of each token, [B, N]."""
    features = layout.grid(tape, unit(tape, patches_of(site, tape, site.stream, 1)))
    alike_BCSS = tape.op("MatMul", features, tape.op("Transpose", features, perm=[0, 1, 3, 2]))
    shares = tape.constant(layout.shares()[:, :, None])
    mean = tape.reduce("ReduceSum", tape.op("Mul", alike_BCSS, shares), 3, keepdims=True)
    apart = tape.op("Sub", alike_BCSS, mean)
    spread = tape.reduce("ReduceSum", tape.op("Mul", tape.op("Mul", apart, apart), shares), 3)
    places = np.flatnonzero(layout.there.reshape(-1)).astype(np.int64)
    return tape.op("Gather", layout.flat(tape, spread), tape.constant(places), axis=1)


def _by_rank(tape: Tape, layout: _Crops, attention: ir.Value) -> ir.Value:
    """The patch that is r-th best by attention in its crop, int64 [B, C * S]; places without a token come last."""
    absent = tape.constant((2.0 * ~layout.there).astype(np.float32)[None])
    scores = tape.op("Sub", layout.grid(tape, attention), absent)
    best = tape.ops("TopK", scores, tape.ints([layout.longest]), outputs=2, axis=-1, largest=1, sorted=1)[1]
    return layout.flat(tape, tape.op("Add", best, tape.constant(layout.at[None, :, :1])))
