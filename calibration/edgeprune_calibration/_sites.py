"""Where the cuts of a plan stand in two graphs, and by which names the pruned one says what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.core.graph import PREFIX
from edgeprune.core.plan import TokenCut

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSite:
    """One cut, in both graphs.

    Attributes:
        block: index of the block, 0-based; one past the last where tokens leave for the outputs.
        at: the dense graph's value where the cut stands, a residual Add [B,T,D], or what a projector reads.
        index: the pruned graph's [B,K'] positions in the stream before the cut.
        merge: the pruned graph's source [B,R], own [B,K',1] and weights [B,K',R] of
            new = own * old[index] + weights @ old[source]; or one matrix [B,K',T_before] of new = matrix @ old; empty
            where tokens are only dropped.
        size: the pruned graph's [B,K'] cumulated token sizes; None where attention does not ask.
        scale: the pruned graph's [B,K',1] factor of merged rows; None where a mean stays as it is.
        standing: the pruned graph's [B,T] token of the stream behind the cut that stands at each place of the dense
            sequence; None where convolutions and scans see only what is left.
    """

    block: int
    at: str
    index: str
    merge: tuple[str, str, str] | tuple[str] | tuple[()] = ()
    size: str | None = None
    scale: str | None = None
    standing: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The pruned graph's values that the cut reports."""
        further = (self.size, self.scale, self.standing)
        return (self.index, *self.merge, *(name for name in further if name is not None))


def every_cut(plan: Plan) -> tuple[TokenCut, ...]:
    """The cuts of a plan, and that of the tokens that leave as one behind all blocks."""
    if plan.output is None:
        return plan.cuts
    return (*plan.cuts, TokenCut(block=plan.blocks, keep=plan.output.keep, strategy=plan.output.strategy))


def find_sites(pruned: ir.Model, plan: Plan, at: Sequence[str]) -> tuple[CutSite, ...]:
    """All cuts of a plan by the names that surgery gives their values; `at` as in `CutSite`, one a cut."""
    known = {value.name for node in pruned.graph for value in node.outputs} | set(pruned.graph.initializers)
    sites = []
    for cut, value in zip(every_cut(plan), at, strict=True):
        prefix = f"{PREFIX}cut/{cut.block}" if cut.block < plan.blocks else f"{PREFIX}output"
        parts = ("source", "own", "weights", "size", "scale", "standing")
        source, own, weights, size, scale, standing = (f"{prefix}/{part}" for part in parts)
        sites.append(
            CutSite(
                block=cut.block,
                at=value,
                index=f"{prefix}/index",
                merge=(source, own, weights) if weights in known else (),
                size=size if size in known else None,
                scale=scale if scale in known else None,
                standing=standing if standing in known else None,
            )
        )
    return tuple(sites)
