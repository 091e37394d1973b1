"""A token that did not go on comes back as the kept token that was most like it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeprune_passes._rows import gather_rows
from edgeprune_passes.restores._done import below_prefix, kept_patches, likeness, one_by_one, patch_rows, position

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.tape import Tape
    from edgeprune_passes.restores._done import Done


@dataclass(frozen=True, slots=True)
class Nearest:
    """y_i = y of argmax_k cos(x_i, x_k) over the kept patch tokens k, as the cut saw them; kept tokens are themselves.

    Refuses: nothing.
    Cost: N * K * D MACs for the cosines of each cut, and a Gather of N rows.
    Source: AT-EDM, arXiv 2405.05252 (similarity-based copy).
    """

    name: ClassVar[str] = "nearest"
    source: ClassVar[str] = "AT-EDM, arXiv 2405.05252"

    def refuses(self, cuts: Sequence[Done]) -> str | None:
        """Never."""
        del cuts
        return None

    def bring_back(self, tape: Tape, stream: ir.Value, cuts: Sequence[Done]) -> ir.Value:
        """Write one gather a cut."""
        return one_by_one(tape, stream, cuts, _undo)


def _undo(tape: Tape, stream: ir.Value, done: Done) -> ir.Value:
    where, held = position(tape, kept_patches(tape, done), done.tokens - done.prefix)
    best = tape.op("ArgMax", likeness(tape, done), axis=2, keepdims=0)
    rows = gather_rows(tape, patch_rows(tape, stream, done), tape.op("Where", held, where, best))
    return below_prefix(tape, stream, rows, done)
