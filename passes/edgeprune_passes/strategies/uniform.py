"""Keep evenly spaced patch tokens: coverage without a score."""

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
class Uniform:
    """Keep token floor((i + 1/2) N / K) for i < K, the same in every image; of each side of a class token by itself.

    Refuses: nothing.
    Cost: one Gather.
    Source: none.
    """

    name: ClassVar[str] = "uniform"
    source: ClassVar[str] = "none"
    merges: ClassVar[bool] = False
    anywhere: ClassVar[bool] = True

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
        front, behind = site.sides(keep)
        spaced = np.concatenate([_spaced(front, site.place), site.place + _spaced(behind, site.patches - site.place)])
        index = with_prefix(site, tape, tape.constant(np.tile(spaced, (site.batch, 1))))
        return Selection(index, size=kept_sizes(site, tape, index))


def _spaced(keep: int, patches: int) -> np.ndarray:
    return ((np.arange(keep) + 0.5) * patches / max(keep, 1)).astype(np.int64)
