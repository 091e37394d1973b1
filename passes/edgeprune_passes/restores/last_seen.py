"""A token that did not go on comes back as it was last seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune_passes._rows import gather_rows
from edgeprune_passes.restores._done import one_by_one, position

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.tape import Tape
    from edgeprune_passes.restores._done import Done


@dataclass(frozen=True, slots=True)
class LastSeen:
    """y_i of a kept token is its row of the stream; of any other, merged or dropped, x_i: what it was at its cut.

    Refuses: nothing.
    Cost: one Concat and one Gather of T rows for each cut.
    Source: SViT, arXiv 2306.07050 (dropped tokens stay in the feature map).
    """

    name: ClassVar[str] = "last-seen"
    source: ClassVar[str] = "SViT, arXiv 2306.07050"

    def refuses(self, cuts: Sequence[Done]) -> str | None:
        """Never."""
        del cuts
        return None

    def bring_back(self, tape: Tape, stream: ir.Value, cuts: Sequence[Done]) -> ir.Value:
        """Write one gather a cut."""
        return one_by_one(tape, stream, cuts, _undo)


def _undo(tape: Tape, stream: ir.Value, done: Done) -> ir.Value:
    where, held = position(tape, done.selection.index, done.tokens)
    kept = tape.shape(stream)[1]
    own = tape.constant(np.arange(kept, kept + done.tokens, dtype=np.int64)[None])
    both = tape.op("Concat", stream, done.before, axis=1)
    return gather_rows(tape, both, tape.op("Where", held, where, own))
