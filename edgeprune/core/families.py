"""Families of schedules: few cuts, spread over the depth. Each has one strength that a budget decides.

Measured on DeiT-Tiny at 0.65 of its MACs, importance-merge, KL to dense on 100 photographs: seven cuts 0.017, five
0.021, four 0.016, three 0.017, two 0.023. Few cuts also are few small kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.core.schedule import Curve, reduced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_CUTS = 4


@dataclass(frozen=True, slots=True)
class Spaced:
    """Cut points that are spread evenly between two relative depths.

    Attributes:
        cuts: how many.
        first: depth of the first, 0 is the first cut point of the model.
        last: depth of the last, 1 is the last cut point.
    """

    cuts: int = DEFAULT_CUTS
    first: float = 0.2
    last: float = 0.8

    def points(self, count: int) -> tuple[int, ...]:
        """Which of `count` cut points are used, ascending, each once."""
        step = (self.last - self.first) / max(self.cuts - 1, 1)
        depths = [self.first + step * i for i in range(self.cuts)] if self.cuts > 1 else [(self.first + self.last) / 2]
        return tuple(sorted({round(depth * (count - 1)) for depth in depths}))

    def kept(self, count: int, patches: int, strength: float, fewest: Callable[[int], int]) -> tuple[int, ...]:
        """Patch tokens after each of `count` cut points; the chosen ones share the reduction as a `Curve` would."""
        bell = Curve(start=0.0).rates(count)
        chosen = self.points(count)
        rates = [rate if i in chosen else 0.0 for i, rate in enumerate(bell)]
        return reduced([rate / sum(rates) for rate in rates], patches, strength, fewest)


def families(cuts: int) -> tuple[Spaced, ...]:
    """Where a search begins: the default first, then other depths and fewer cuts."""
    depths = ((0.2, 0.8), (0.1, 0.8), (0.2, 0.6), (0.3, 0.9), (0.0, 0.7))
    wanted = tuple(Spaced(cuts, first, last) for first, last in depths)
    fewer = (Spaced(cuts - 1),) if cuts > 1 else ()
    return (*wanted, *fewer)


def limit_cuts(schedule: Sequence[int], patches: int, cuts: int) -> tuple[int, ...]:
    """The schedule with only its `cuts` largest steps; a step that goes takes its tokens to the next one that stays."""
    steps = [before - after for before, after in zip((patches, *schedule), schedule, strict=False)]
    largest = set(sorted(range(len(steps)), key=lambda i: (-steps[i], i))[:cuts])
    out, kept, owed = [], patches, 0
    for i, step in enumerate(steps):
        owed += step
        if i in largest:
            kept, owed = kept - owed, 0
        out.append(kept)
    return tuple(out)
