"""A selective scan in chunks of c tokens: m chunks side by side, then what each hands on to those behind it.

    inside a chunk     h_j = exp(step_j A) h_(j-1) + input_j B_j                from h = 0, for all chunks at a time
    into chunk k       H_k = sum over i < k of exp(A * steps between i and k) * last h of chunk i
    result             y_j = C_j . (h_j + exp(A * steps of the chunk up to j) H_k)

No exponent is ever positive, so nothing overflows however far a state decays: sums of steps are added up for each pair
of places and never subtracted, which would also cost the digits of small decays beside large sums. A decay that is
zero in fp32 is zero in the step-by-step form as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.tape import Tape

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True, eq=False)
class Operands:
    """What a selective scan reads, and its sizes."""

    step: ir.Value
    input: ir.Value
    matrix: ir.Value
    rows: ir.Value
    columns: ir.Value
    batch: int
    tokens: int
    channels: int
    states: int

    @classmethod
    def of(cls, node: ir.Node) -> Operands:
        """Operands of an `edgeprune::SelectiveScan` with static shapes."""
        step, added, matrix, rows, columns = (value for value in node.inputs if value is not None)
        assert step.shape is not None
        assert matrix.shape is not None
        batch, tokens, channels = (int(size) for size in step.shape.numpy())
        states = int(matrix.shape.numpy()[1])
        return cls(step, added, matrix, rows, columns, batch, tokens, channels, states)


@dataclass(frozen=True, slots=True, eq=False)
class _Writer:
    """One scan in chunks; `shared` holds constants that scans of one length have in common.

    Shapes: _BmcD and the like name the axes: batch, chunks, tokens of a chunk, channels, states.
    """

    tape: Tape
    shared: Tape
    scan: Operands
    chunk: int
    chunks: int

    def write(self) -> ir.Value:
        """Y as [B,T,D]."""
        tape, scan = self.tape, self.scan
        step_BmcD, columns_Bmcn = self._in_chunks(scan.step), self._in_chunks(scan.columns)
        states = self._inside(step_BmcD)
        state_BmcDn = tape.op("Concat", *states, axis=2) if len(states) > 1 else states[0]
        if self.chunks > 1:
            handed_BmDn = self._handed_on(step_BmcD, tape.op("Squeeze", states[-1], tape.ints([2])))
            since_BmcD = self._sums(np.tri(self.chunk), step_BmcD)
            late = tape.op("Mul", self._decay(since_BmcD), self._wide(handed_BmDn, 2))
            state_BmcDn = tape.op("Add", state_BmcDn, late)
        read = tape.op("Mul", state_BmcDn, self._wide(columns_Bmcn, 3))
        y = tape.op("Reshape", tape.reduce("ReduceSum", read, -1), tape.ints([scan.batch, -1, scan.channels]))
        return tape.slice(y, 1, 0, scan.tokens)

    def _in_chunks(self, value: ir.Value) -> ir.Value:
        """[B,T,W] -> [B,m,c,W]; behind the last token all is zero, which neither decays nor adds."""
        tape = self.tape
        batch, tokens, width = tape.shape(value)
        missing = self.chunk * self.chunks - tokens
        if missing:
            value = tape.op("Pad", value, tape.ints([0, 0, 0, 0, missing, 0]))
        return tape.op("Reshape", value, tape.ints([batch, self.chunks, self.chunk, width]))

    def _inside(self, step_BmcD: ir.Value) -> list[ir.Value]:
        """States [B,m,1,D,n] at each place of a chunk, as if nothing came before the chunk."""
        tape = self.tape
        rows = self._wide(self._in_chunks(self.scan.rows), 3)
        added = tape.op("Mul", self._wide(self._in_chunks(self.scan.input), 4), rows)
        decays, parts = self._places(self._decay(step_BmcD)), self._places(added)
        states = [parts[0]]
        for decay, part in zip(decays[1:], parts[1:], strict=True):
            states.append(tape.op("Add", tape.op("Mul", decay, states[-1]), part))
        return states

    def _handed_on(self, step_BmcD: ir.Value, last_BmDn: ir.Value) -> ir.Value:
        """State in front of each chunk, [B,m,D,n], from the last states of all chunks before it."""
        tape, m = self.tape, self.chunks
        sums_B1mD = self._wide(tape.reduce("ReduceSum", step_BmcD, 2), 1)
        k, i, between = np.ogrid[:m, :m, :m]
        inside = (i < between) & (between < k)
        gaps = self._sums(inside.reshape(m * m, m), sums_B1mD)
        gaps_BmmD = tape.op("Reshape", gaps, tape.ints([self.scan.batch, m, m, self.scan.channels]))
        before = self._constant(np.tri(m, k=-1)[:, :, None, None])
        weights = tape.op("Mul", self._decay(gaps_BmmD), before)
        return tape.reduce("ReduceSum", tape.op("Mul", weights, self._wide(last_BmDn, 1)), 2)

    def _sums(self, which: np.ndarray, step: ir.Value) -> ir.Value:
        """Sums of the steps [B,g,s,D] that each row of `which` [r,s] names: [B,g,r,D].

        A product and a sum rather than a MatMul: TensorRT fuses them with what is around, and no runtime lacks them.
        """
        named = self.tape.op("Mul", self._wide(step, 2), self._constant(which[:, :, None]))
        return self.tape.reduce("ReduceSum", named, 3)

    def _decay(self, step: ir.Value) -> ir.Value:
        """exp(step * A), [..., D] -> [..., D, n]."""
        return self.tape.op("Exp", self.tape.op("Mul", self._wide(step, -1), self.scan.matrix))

    def _places(self, value: ir.Value) -> tuple[ir.Value, ...]:
        """[B,m,c,D,n] -> c times [B,m,1,D,n]."""
        if self.chunk == 1:
            return (value,)
        return self.tape.ops("Split", value, self.tape.ints([1] * self.chunk), outputs=self.chunk, axis=2)

    def _wide(self, value: ir.Value, axis: int) -> ir.Value:
        return self.tape.op("Unsqueeze", value, self.tape.ints([axis]))

    def _constant(self, array: np.ndarray) -> ir.Value:
        return self.shared.constant(array.astype(np.float32))


def write_chunks(tape: Tape, shared: Tape, scan: Operands, chunk: int) -> ir.Value:
    """Write a scan in chunks of `chunk` tokens; the result, [B,T,D].

    Shapes: static; the last chunk is filled up with zeros.
    Cost: two passes over [B,T,D,n], c steps in a row, and the pairs of chunks, [B,m,m,D,n]; some 35 + 2 c nodes.
    Source: Blelloch 1990, "Prefix sums and their applications", section 1.4, on recurrences h = a h + b: chunks of any
        size, here with all pairs of chunks in the place of a tree.
    """
    chunk = min(chunk, scan.tokens)
    return _Writer(tape, shared, scan, chunk, -(-scan.tokens // chunk)).write()
