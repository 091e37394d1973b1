"""Keep a fixed pseudo-random choice of patch tokens: the control that every score must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes.scores import kept_sizes, with_prefix
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site


@dataclass(frozen=True, slots=True)
class Random:
    """Keep positions drawn once, when the graph is written; another draw for each sample of a batch and each block.

    Attributes:
        seed: of the draw.

    Refuses: nothing.
    Cost: one Gather.
    Source: none.
    """

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "none"
    merges: ClassVar[bool] = False
    anywhere: ClassVar[bool] = True
    seed: int = 0

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Never."""
        del block, prefix
        return None

    def fewest(self, patches: int, prefix: int) -> int:
        """One."""
        del patches, prefix
        return 1

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write a constant index."""
        rows = [self._drawn(site, keep, b) for b in range(site.batch)]
        index = with_prefix(site, tape, tape.constant(np.stack(rows).astype(np.int64)))
        return Selection(index, size=kept_sizes(site, tape, index))

    def _drawn(self, site: Site, keep: int, sample: int) -> np.ndarray:
        """Positions among the patch tokens, ascending, so many of each side of the prefix tokens."""
        draw = np.random.default_rng([self.seed, site.block.index, sample])
        front, behind = site.sides(keep)
        left = np.sort(draw.choice(site.place, front, replace=False)) if front else np.zeros(0, np.int64)
        right = np.sort(draw.choice(site.patches - site.place, behind, replace=False)) if behind else left[:0]
        return np.concatenate([left, site.place + right])
