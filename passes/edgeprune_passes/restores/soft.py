"""A token that did not go on comes back as a soft mean of the kept tokens that were like it."""

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
class Soft:
    """y_i = sum_k w_ik y_k, w = softmax((cos(x_i, x_k) - max) / (0.05 * spread)); kept tokens are themselves.

    The cosines are of the stream in front of the cut; spread is the mean distance of a cosine from its row's largest.

    Refuses: nothing.
    Cost: 2 * N * K * D MACs for each cut.
    Source: Expedit, arXiv 2210.01035, section 3.3 (reconstruction from similar tokens).
    """

    name: ClassVar[str] = "soft"
    source: ClassVar[str] = "after Expedit, arXiv 2210.01035"

    def refuses(self, cuts: Sequence[Done]) -> str | None:
        """Never."""
        del cuts
        return None

    def bring_back(self, tape: Tape, stream: ir.Value, cuts: Sequence[Done]) -> ir.Value:
        """Write one product a cut."""
        return one_by_one(tape, stream, cuts, _undo)


def _undo(tape: Tape, stream: ir.Value, done: Done) -> ir.Value:
    rows = tape.op("MatMul", own_or_alike(tape, done), patch_rows(tape, stream, done))
    return below_prefix(tape, stream, rows, done)
