"""What a strategy hands to the surgery, and what it is handed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from edgeprune.core.flow.labels import sides
from edgeprune.core.refusals import Refusal, RefusalCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from edgeprune.core.flow.labels import Label
    from edgeprune.core.recognition import Block, Recognition
    from edgeprune.core.source import Stream
    from edgeprune.core.tape import Tape


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """Tokens that go into kept ones: new = scale * (own * old[index] + weights @ old[source]).

    Attributes:
        source: int64 [B, R], the tokens that are merged away.
        into: int64 [B, R], the kept token that each goes into; one of `index`.
        own: fp32 [B, K', 1], weight of the kept token itself.
        weights: fp32 [B, K', R], weights of the merged ones; `own` and `weights` of a row sum to one.
        scale: fp32 [B, K', 1], one or more; None for one.
    """

    source: ir.Value
    into: ir.Value
    own: ir.Value
    weights: ir.Value
    scale: ir.Value | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Which tokens go on, and what is merged into them.

    Attributes:
        index: int64 [B, K'], ascending, prefix tokens among them: the old token that each new one stands for. As many
            patch tokens are in front of them as `Site.sides` says: all behind where prefix tokens come first.
        merge: what else goes into the new tokens; None for a plain choice.
        size: fp32 [B, K'], how many original tokens each stands for; their log is added to later attention logits.
            None where sizes are not tracked.
        covers: every old token went into a new one, so that a restore needs no dropped tokens.
    """

    index: ir.Value
    merge: Merge | None = None
    size: ir.Value | None = None
    covers: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """The place of one cut, as a strategy sees it.

    Attributes:
        block: the block after whose attention the cut stands.
        stream: fp32 [B, T, D], the residual stream there.
        tokens: T before the cut, prefix included.
        prefix: prefix tokens, never removed.
        place: where they stand: patch tokens in front of them.
        batch: B.
        depth: blocks in the model.
        size: fp32 [B, T] sizes from earlier merges, or None.
        log_size: fp32 [B, 1, 1, T], their logarithm as attention logits take it, or None.
        grid: rows and columns of the patch grid before any cut, if known.
        labels: of the values of the block, with the tokens of the dense model.
        positions: int64 [B, T], where the tokens stood in the dense model, where the scans of the block still run over
            all places; None where they run over these tokens.
    """

    block: Block
    stream: ir.Value
    tokens: int
    prefix: int
    batch: int
    depth: int
    size: ir.Value | None = None
    log_size: ir.Value | None = None
    grid: tuple[int, int] | None = None
    place: int = 0
    labels: Mapping[ir.Value, Label] = field(default_factory=dict)
    positions: ir.Value | None = None

    @property
    def patches(self) -> int:
        """Patch tokens before the cut."""
        return self.tokens - self.prefix

    def sides(self, keep: int) -> tuple[int, int]:
        """How many of `keep` patch tokens stay in front of the prefix tokens and behind them."""
        return sides(self.patches, self.place, keep)


@runtime_checkable
class Strategy(Protocol):
    """A way to choose or merge tokens. A frozen dataclass; its fields are its options."""

    name: ClassVar[str]
    source: ClassVar[str]
    merges: ClassVar[bool]

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Why this strategy cannot work at a block, or None."""
        ...

    def fewest(self, patches: int, prefix: int) -> int:
        """The fewest of `patches` patch tokens that one cut can keep."""
        ...

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the operators that choose `keep` patch tokens; prefix tokens stay."""
        ...


@runtime_checkable
class Late(Protocol):
    """A strategy that reads what the mixers of a block give, so that no cut by it can stand in front of them."""

    late: ClassVar[str]


@runtime_checkable
class Nearest(Protocol):
    """A strategy that cannot keep every count, such as one of whole rows."""

    def nearest(self, keep: int, grid: tuple[int, int] | None) -> int:
        """The count it can keep that is nearest to a wanted one."""
        ...


def named(selection: Selection, prefix: str) -> Selection:
    """Give the selection's values the names by which proofs and reports find them."""
    merge = selection.merge
    names: dict[str, ir.Value | None] = {"index": selection.index, "size": selection.size}
    if merge is not None:
        names |= {"source": merge.source, "into": merge.into, "own": merge.own, "weights": merge.weights}
        names["scale"] = merge.scale
    for name, value in names.items():
        if value is not None:
            value.name = f"{prefix}/{name}"
    return selection


def first_refusal(strategy: Strategy, found: Recognition) -> Refusal | None:
    """Why a strategy does not work on a recognised model: what it says of the first block that it refuses, or None."""
    reasons = (refusal_at(strategy, block, found.found) for block in found.blocks)
    return next((reason for reason in reasons if reason is not None), None)


def refusal_at(strategy: Strategy, block: Block, stream: Stream) -> Refusal | None:
    """Why a strategy cannot work at a block, or None; first, that it takes prefix tokens to come first.

    A strategy says with `anywhere = True` that it keeps them where they stand, with the patch tokens on either side.
    """
    if stream.place and not getattr(strategy, "anywhere", False):
        reason = f"it takes class tokens to come first, but here {stream.place} patch tokens stand in front of them"
        return Refusal(RefusalCode.POSITION_BOUND, reason)
    return strategy.refuses(block, stream.prefix)
