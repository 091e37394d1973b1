"""Every token comes back as a soft mean of the clusters that it was near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeprune_passes.restores._done import below_prefix, one_by_one, patch_rows, soft_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.tape import Tape
    from edgeprune_passes.restores._done import Done


@dataclass(frozen=True, slots=True)
class Cluster:
    """y_i = sum_k w_ik y_k, w = softmax((min_k d_ik - d_ik) / (0.05 * spread)), d_ik = |x_i - z_k|^2.

    z is the stream right behind the cut: centroids, where tokens were merged. No token is its own there, so that kept
    tokens are reconstructed like all others.

    Refuses: cuts that drop tokens: what went on is no centroid then.
    Cost: 2 * N * K * D MACs for each cut.
    Source: Expedit, arXiv 2210.01035, section 3.3, with weights that sum to one.
    """

    name: ClassVar[str] = "cluster"
    source: ClassVar[str] = "Expedit, arXiv 2210.01035"

    def refuses(self, cuts: Sequence[Done]) -> str | None:
        """Dropped tokens are in no cluster."""
        covered = all(done.selection.covers for done in cuts)
        return None if covered else "tokens were dropped, so that what went on are no clusters"

    def bring_back(self, tape: Tape, stream: ir.Value, cuts: Sequence[Done]) -> ir.Value:
        """Write one product a cut."""
        return one_by_one(tape, stream, cuts, _undo)


def _undo(tape: Tape, stream: ir.Value, done: Done) -> ir.Value:
    tokens, centres = patch_rows(tape, done.before, done), patch_rows(tape, done.reduced, done)
    across = tape.op("MatMul", tokens, tape.op("Transpose", centres, perm=[0, 2, 1]))
    lengths = tape.op("Unsqueeze", tape.reduce("ReduceSum", tape.op("Mul", centres, centres), 2), tape.ints([1]))
    # |x_i|^2 is the same along a row: it does not move the softmax.
    near = tape.op("Sub", tape.op("Mul", across, tape.scalar(2.0)), lengths)
    rows = tape.op("MatMul", soft_weights(tape, near), patch_rows(tape, stream, done))
    return below_prefix(tape, stream, rows, done)
