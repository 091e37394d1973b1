"""Keep every token: the control that must change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes.scores import kept_sizes
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site


@dataclass(frozen=True, slots=True)
class KeepAll:
    """Gather all tokens in order; the outputs equal the dense model's bit for bit.

    Refuses: nothing.
    Cost: one Gather.
    Source: none.
    """

    name: ClassVar[str] = "keep-all"
    source: ClassVar[str] = "none"
    merges: ClassVar[bool] = False
    anywhere: ClassVar[bool] = True

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Never."""
        del block, prefix
        return None

    def fewest(self, patches: int, prefix: int) -> int:
        """All."""
        del prefix
        return patches

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write a constant index of all tokens."""
        del keep
        index = tape.constant(np.tile(np.arange(site.tokens, dtype=np.int64), (site.batch, 1)))
        index = tape.op("Identity", index, name="index")
        return Selection(index, size=kept_sizes(site, tape, index))
