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
        rows = [
            np.sort(np.random.default_rng([self.seed, site.block.index, b]).choice(site.patches, keep, replace=False))
            for b in range(site.batch)
        ]
        index = with_prefix(site, tape, tape.constant(np.stack(rows).astype(np.int64)))
        return Selection(index, size=kept_sizes(site, tape, index))
