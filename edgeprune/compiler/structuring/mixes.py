"""How a saving may be divided among axes: the mixes that are tried."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune.core.plan import WidthKind

WIDTH_KINDS: tuple[WidthKind, ...] = ("mlp", "inner", "head-size", "heads")
# Shares of the saving that tokens bring, where other axes are named too; then shares beside the best are tried.
_TOKEN_SHARES = (0.95, 0.9, 0.75, 0.0)
# Shares of what is left that whole sublayers bring, where widths are named too.
_SUBLAYER_SHARES = (0.0, 0.35, 0.7)
_SPLITS: dict[int, tuple[tuple[float, ...], ...]] = {
    0: ((),),
    1: ((1.0,),),
    2: ((1.0, 0.0), (0.7, 0.3), (0.5, 0.5)),
    3: ((1.0, 0.0, 0.0), (0.7, 0.3, 0.0), (0.5, 0.5, 0.0), (0.6, 0.25, 0.15)),
    4: ((1.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.0, 0.0), (0.4, 0.3, 0.2, 0.1)),
}


@dataclass(frozen=True, slots=True)
class Mix:
    """How a saving is divided: the tokens' share of it, sublayers' share of the rest, and each width's of what is left.

    Attributes:
        tokens: share that fewer tokens bring.
        widths: of what sublayers leave, the share of each width.
        joint: let one knapsack divide it instead, over all widths that have a share.
        sublayers: of what tokens leave, the share that whole sublayers bring, at the least.
    """

    tokens: float
    widths: dict[WidthKind, float]
    joint: bool = False
    sublayers: float = 0.0

    @property
    def name(self) -> str:
        """For the report."""
        rest = 1 - self.tokens
        parts = [("tokens", self.tokens), ("sublayers", rest * self.sublayers)]
        left = rest * (1 - self.sublayers)
        if self.joint:
            parts.append((" and ".join(kind for kind, share in self.widths.items() if share), left))
        else:
            parts += [(kind, left * share) for kind, share in self.widths.items()]
        return ", ".join(f"{axis} {share:.0%}" for axis, share in parts if share)


def mixes(axes: Sequence[str], *, params: bool) -> list[Mix]:
    """What is tried for these axes; tokens alone are not among them."""
    kinds: list[WidthKind] = [kind for kind in WIDTH_KINDS if kind in axes]
    splits = [dict(zip(kinds, row, strict=True)) for row in _SPLITS[len(kinds)]]
    shares = (0.0,) if params or "tokens" not in axes else _TOKEN_SHARES
    made: list[Mix] = []
    for tokens in shares:
        if len(kinds) == 1 or (kinds and len(shares) == 1):
            made += [Mix(tokens, split) for split in splits]
        made += _joint(tokens, kinds)
        made += _with_sublayers(tokens, dict.fromkeys(kinds, 1.0), few=len(shares) > 1) if "sublayers" in axes else []
    return made


def _joint(tokens: float, kinds: Sequence[WidthKind]) -> list[Mix]:
    """All widths by one knapsack, and all but heads: what they look like one at a time is too little together."""
    if len(kinds) == 1 or not kinds:
        return []
    every = Mix(tokens, dict.fromkeys(kinds, 1.0), joint=True)
    if len(kinds) == 2 or "heads" not in kinds:
        return [every]
    return [Mix(tokens, {kind: float(kind != "heads") for kind in kinds}, joint=True), every]


def beside(best: Mix, tried: Sequence[Mix]) -> list[Mix]:
    """The same mix with shares of tokens half way to those that were tried on either side; 1 is tokens alone."""
    if not best.tokens:
        return []
    shares = sorted({1.0, *(mix.tokens for mix in tried)})
    at = shares.index(best.tokens)
    near = [shares[i] for i in (at - 1, at + 1) if 0 <= i < len(shares)]
    return [replace(best, tokens=(best.tokens + share) / 2) for share in near]


def _with_sublayers(tokens: float, widths: dict[WidthKind, float], *, few: bool) -> list[Mix]:
    """Mixes in which whole sublayers go."""
    if not widths:
        return [Mix(tokens, widths, sublayers=1.0)]
    shares = [share for share in _SUBLAYER_SHARES if share]
    return [Mix(tokens, widths, len(widths) > 1, share) for share in (shares[:1] if few else [*shares, 1.0])]
