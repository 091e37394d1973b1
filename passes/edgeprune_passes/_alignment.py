"""Hidden-state alignment: behind a cut the state of a selective scan decays over the tokens that are gone.

A token that was removed gives the state nothing, but time passes over it. Between two kept neighbours q_(j-1) < q_j
the decay is exp(A * sum of step over (q_(j-1), q_j]), while what goes in at q_j stays as it was: only the `step`
operand of the scan changes. Where the steps of removed tokens are known, in the block of the cut, they are added up
(`exact`); in later blocks they are taken to be those of the next kept token (`gap`) or those of a token of zeros
(`bias`).

Source: the idea is ToP-ViM's (arXiv 2409.18962, hidden-state alignment); the formulas are our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.errors import PlanError
from edgeprune.core.graph import PREFIX, constant_of, name_of
from edgeprune.core.tape import Tape
from edgeprune_passes._rows import gather_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import onnx_ir as ir

    from edgeprune.core.flow.engine import Flow
    from edgeprune.core.plan import Alignment
    from edgeprune.core.recognition import Block
    from edgeprune.core.scans import Scan

# What `exact` goes on as, behind the block of its cut: of both the one that drifted less on Vims trained on digits.
BEHIND_EXACT: Alignment = "bias"
_BEGINNING = np.iinfo(np.int64).min


class Aligner:
    """Aligns the scans behind the cuts of one application.

    Args:
        model: the graph.
        alignment: how.
        scans: of the model.

    Raises:
        PlanError: if there is something to align with, and no scan.
    """

    def __init__(self, model: ir.Model, alignment: Alignment, scans: Sequence[Scan]) -> None:
        require_scans(alignment, there=bool(scans))
        self._model = model
        self.alignment = alignment
        self._scans = scans
        self._gaps: dict[ir.Node, ir.Value] = {}

    def cuts_inside(self, block: Block) -> bool:
        """Whether a cut of a block stands in front of its scans."""
        return self.alignment == "exact" and bool(block.scans)

    def behind(self, tape: Tape, positions: ir.Value, flow: Flow) -> None:
        """Remember the gaps of every scan that a cut shortened.

        Args:
            tape: of the cut.
            positions: int64 [B, K'], where the kept tokens stood in the dense model.
            flow: from the cut on.
        """
        if self.alignment in {"none", "neighbours"}:
            return
        for scan in self._scans:
            if flow.tokens_on(scan.step):
                self._gaps[scan.node] = gaps(tape, positions, flipped=scan.flipped)

    def write(self, scans: Iterable[Scan]) -> None:
        """Stretch the steps of some scans by the gaps that are known of them."""
        for scan in scans:
            gap = self._gaps.pop(scan.node, None)
            if gap is not None:
                tape = Tape(self._model, before=scan.node, prefix=f"{PREFIX}aligned/{name_of(scan.node)}")
                mode = mode_of(scan, self.alignment)
                scan.node.replace_input_with(0, stretched(tape, scan, gap, mode))

    def write_all(self) -> None:
        """Stretch the steps of all scans that are left."""
        self.write(self._scans)


def require_scans(alignment: Alignment, *, there: bool) -> None:
    """Check that there is a scan to align, if that is asked for.

    Raises:
        PlanError: if there is none.
    """
    if alignment != "none" and not there:
        msg = f"`alignment` is {alignment}, and the model has no selective scan"
        raise PlanError(msg, hint="leave out --alignment: attention has no state that decays")


def reversed_order(tape: Tape, value: ir.Value, axis: int = 1) -> ir.Value:
    """The same along one axis, from the last to the first."""
    ends = (tape.ints([-1]), tape.ints([_BEGINNING]), tape.ints([axis]), tape.ints([-1]))
    return tape.op("Slice", value, *ends, name="flipped")


def mode_of(scan: Scan, alignment: Alignment) -> Alignment:
    """How a scan behind the block of a cut is aligned; `gap` where the steps' bias was not found."""
    mode = BEHIND_EXACT if alignment == "exact" else alignment
    return "gap" if mode == "bias" and _resting_step(scan) is None else mode


def gaps(tape: Tape, positions: ir.Value, *, flipped: bool) -> ir.Value:
    """How far each kept token is behind the one before it, in the order in which the scan runs: fp32 [B, K, 1].

    The first has no predecessor; its state is zero, so that any number would do. It is one.

    Args:
        tape: where to write.
        positions: int64 [B, K], ascending: where the kept tokens stood in the dense model.
        flipped: the scan runs from the last token to the first.
    """
    batch, kept = tape.shape(positions)
    if kept == 1:
        return tape.constant(np.ones((batch, 1, 1), np.float32))
    behind = tape.slice(positions, 1, 1, kept, name="behind")
    apart = tape.op("Sub", behind, tape.slice(positions, 1, 0, kept - 1, name="front"), name="apart")
    if flipped:
        apart = reversed_order(tape, apart)
    first = tape.constant(np.ones((batch, 1), np.int64))
    row = tape.op("Cast", tape.op("Concat", first, apart, axis=1), to=1)
    return tape.op("Unsqueeze", row, tape.ints([-1]), name="gap")


def stretched(tape: Tape, scan: Scan, gap: ir.Value, mode: Alignment) -> ir.Value:
    """The step of a scan behind a cut, with what the removed tokens let decay: fp32 [B, K, D].

    `gap`: step * gap. `bias`: step + (gap - 1) * softplus(bias).
    """
    resting = _resting_step(scan) if mode == "bias" else None
    if resting is None:
        return tape.op("Mul", scan.step, gap, name="aligned")
    more = tape.op("Mul", tape.op("Sub", gap, tape.scalar(1.0)), tape.constant(resting))
    return tape.op("Add", scan.step, more, name="aligned")


def _resting_step(scan: Scan) -> np.ndarray | None:
    """The step of a token of zeros, softplus(bias), [1, 1, D]; None where the bias is not known."""
    bias = constant_of(scan.bias) if scan.bias is not None else None
    if bias is None or bias.size != scan.channels:
        return None
    wide = np.logaddexp(0.0, bias.astype(np.float64))
    return wide.astype(np.float32).reshape(1, 1, -1)


def cut_scan(tape: Tape, scan: Scan, index: ir.Value, tokens: int) -> None:
    """Let a scan run over the kept tokens alone, and its state decay by all steps between them.

    The steps are added up by a product with ones and zeros, which where all are kept gives each back as it was.
    Differences of their running sum would be cheaper, but lose digits: a step of 0.001 behind a sum of 30 has four of
    them left.

    Args:
        tape: where to write, in front of the scan and behind its operands.
        scan: of the block of the cut.
        index: int64 [B, K'], kept.
        tokens: T.
    """
    if scan.flipped:
        index = tape.op("Sub", tape.ints([tokens - 1]), reversed_order(tape, index), name="index_flipped")
    node = scan.node
    step = tape.op("MatMul", spans(tape, index, tokens), scan.step, name="step")
    node.replace_input_with(0, step)
    for operand in (1, 3, 4):
        value = node.inputs[operand]
        assert value is not None
        node.replace_input_with(operand, gather_rows(tape, value, index))
    node.outputs[0].shape = step.shape


def spans(tape: Tape, index: ir.Value, tokens: int) -> ir.Value:
    """Ones where a token is behind the kept one before and not behind the kept one itself: fp32 [B, K, T]."""
    batch, _ = tape.shape(index)
    every = tape.constant(np.arange(tokens, dtype=np.int64).reshape(1, 1, -1))
    behind = tape.op("Cast", tape.op("Less", tape.op("Unsqueeze", index, tape.ints([-1])), every), to=1)
    kept = tape.shape(behind)[1]
    everything = tape.constant(np.ones((batch, 1, tokens), np.float32))
    before = tape.op("Concat", everything, tape.slice(behind, 1, 0, kept - 1), axis=1)
    return tape.op("Sub", before, behind, name="spans")
