"""A token comes back as it was at its cut, moved as the tokens that were like it have moved since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeprune_passes.restores._done import below_prefix, one_by_one, own_or_alike, patch_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.tape import Tape
    from edgeprune_passes.restores._done import Done


@dataclass(frozen=True, slots=True)
class ResidualDelta:
    """y_i = x_i + sum_k w_ik (y_k - z_k), with z_k the stream right behind the cut and the weights of `soft`.

    A kept token moves by its own change, so that one with others merged into it keeps what set it apart from them; any
    other keeps its own content and takes the change of its look-alikes.

    Refuses: nothing.
    Cost: 2 * N * K * D MACs for each cut.
    Source: our own.
    """

    name: ClassVar[str] = "residual-delta"
    source: ClassVar[str] = "edgeprune"

    def refuses(self, cuts: Sequence[Done]) -> str | None:
        """Never."""
        del cuts
        return None

    def bring_back(self, tape: Tape, stream: ir.Value, cuts: Sequence[Done]) -> ir.Value:
        """Write one product a cut."""
        return one_by_one(tape, stream, cuts, _undo)


def _undo(tape: Tape, stream: ir.Value, done: Done) -> ir.Value:
    moved = tape.op("Sub", patch_rows(tape, stream, done), patch_rows(tape, done.reduced, done))
    change = tape.op("MatMul", own_or_alike(tape, done), moved)
    rows = tape.op("Add", patch_rows(tape, done.before, done), change)
    return below_prefix(tape, stream, rows, done)
