"""A selective scan in chunks of c tokens: m chunks side by side, then what each hands on to those behind it.

    inside a chunk     h_j = exp(step_j A) h_(j-1) + input_j B_j                from h = 0, for all chunks at a time
    in front of k      H_k = sum over i < k of exp(A * steps between i and k) * last h of chunk i
    result             y_j = C_j . h_j + C_j . (exp(A * steps of the chunk up to j) H_k)

No exponent is ever positive, so nothing overflows however far a state decays: sums of steps are added up for each pair
of places and never subtracted, which would also cost the digits of small decays beside large sums. A decay that is
zero in fp32 is zero in the step-by-step form as well.

Both halves of the result are summed over the states where they arise. So TensorRT-RTX keeps the states of a chunk in
registers, all steps of it in one kernel, and what goes through memory is as large as the tokens and the chunks' ends;
written out, the states would be n times that. A chain of 20 steps or more was seen to be split, with the states of the
place where it was split written out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.tape import Tape

if TYPE_CHECKING:
    import onnx_ir as ir

MOST_PAIRED = 32  # chunks up to which each takes from every one before it; beyond, chunks are cut into chunks
_ONE_CHUNK = 16  # tokens up to which one chunk is all
_SIZES = (12, 11, 10, 13, 14, 9, 8)


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

    Names end in axes: B batch, s places in a row, m chunks, c places of a chunk, D channels, n states.
    """

    tape: Tape
    shared: Tape
    scan: Operands
    chunk: int

    def write(self) -> ir.Value:
        """Y as [B,T,D]."""
        tape, scan = self.tape, self.scan
        step_BmcD, columns_Bmcn = self._in_chunks(scan.step, self.chunk), self._in_chunks(scan.columns, self.chunk)
        rows = self._wide(self._in_chunks(scan.rows, self.chunk), 3)
        added_BmcDn = tape.op("Mul", self._wide(self._in_chunks(scan.input, self.chunk), 4), rows)
        states = self._inside(step_BmcD, added_BmcDn)
        columns = self._wide(columns_Bmcn, 3)
        read = [self._read(*pair) for pair in zip(states, self._places(columns), strict=True)]
        y = tape.op("Concat", *read, axis=2) if len(read) > 1 else read[0]
        if tape.shape(y)[1] > 1:
            handed_BmDn = self._before(*self._ends(step_BmcD, states))
            since_BmcD = self._sums(np.tri(self.chunk), step_BmcD)
            late = tape.op("Mul", self._decay(since_BmcD), self._wide(handed_BmDn, 2))
            y = tape.op("Add", y, self._read(late, columns))
        y = tape.op("Reshape", y, tape.ints([scan.batch, -1, scan.channels]))
        return tape.slice(y, 1, 0, scan.tokens)

    def _in_chunks(self, value: ir.Value, chunk: int) -> ir.Value:
        """[B,s,...] -> [B,m,c,...]; behind the last place all is zero, which neither decays nor adds."""
        tape = self.tape
        batch, places, *rest = tape.shape(value)
        chunks = -(-places // chunk)
        missing = chunk * chunks - places
        if missing:
            idle = [0] * len(rest)
            value = tape.op("Pad", value, tape.ints([0, 0, *idle, 0, missing, *idle]))
        return tape.op("Reshape", value, tape.ints([batch, chunks, chunk, *rest]))

    def _inside(self, step_BmcD: ir.Value, added_BmcDn: ir.Value) -> list[ir.Value]:
        """States [B,m,1,D,n] at each place of a chunk, as if nothing came before the chunk."""
        tape = self.tape
        decays, parts = self._places(self._decay(step_BmcD)), self._places(added_BmcDn)
        states = [parts[0]]
        for decay, part in zip(decays[1:], parts[1:], strict=True):
            states.append(tape.op("Add", tape.op("Mul", decay, states[-1]), part))
        return states

    def _ends(self, step_BmcD: ir.Value, states: list[ir.Value]) -> tuple[ir.Value, ir.Value]:
        """Of each chunk the sum of its steps, [B,m,D], and its last state, [B,m,D,n]: a scan of chunks."""
        last = self.tape.op("Squeeze", states[-1], self.tape.ints([2]))
        return self.tape.reduce("ReduceSum", step_BmcD, 2), last

    def _before(self, step_BsD: ir.Value, added_BsDn: ir.Value) -> ir.Value:
        """The state in front of each place, [B,s,D,n]."""
        places = self.tape.shape(step_BsD)[1]
        return (self._of_pairs if places <= MOST_PAIRED else self._of_chunks)(step_BsD, added_BsDn)

    def _of_pairs(self, step_BsD: ir.Value, added_BsDn: ir.Value) -> ir.Value:
        """Each place from all in front of it."""
        tape = self.tape
        batch, s, channels = tape.shape(step_BsD)
        k, i, between = np.ogrid[:s, :s, :s]
        inside = (i < between) & (between < k)
        gaps = self._sums(inside.reshape(s * s, s), self._wide(step_BsD, 1))
        gaps_BssD = tape.op("Reshape", gaps, tape.ints([batch, s, s, channels]))
        earlier = self._constant(np.tri(s, k=-1)[:, :, None, None])
        weights = tape.op("Mul", self._decay(gaps_BssD), earlier)
        return tape.reduce("ReduceSum", tape.op("Mul", weights, self._wide(added_BsDn, 1)), 2)

    def _of_chunks(self, step_BsD: ir.Value, added_BsDn: ir.Value) -> ir.Value:
        """Chunks of places once more, where the pairs would be too many."""
        tape = self.tape
        batch, places, channels, n = tape.shape(added_BsDn)
        chunk = default_chunk(places)
        step_BmcD = self._in_chunks(step_BsD, chunk)
        states = self._inside(step_BmcD, self._in_chunks(added_BsDn, chunk))
        handed_BmDn = self._before(*self._ends(step_BmcD, states))
        start = self._constant(np.zeros(tape.shape(states[0])))
        since_BmcD = self._sums(np.tri(chunk, k=-1), step_BmcD)
        late = tape.op("Mul", self._decay(since_BmcD), self._wide(handed_BmDn, 2))
        before = tape.op("Add", tape.op("Concat", start, *states[:-1], axis=2), late)
        return tape.slice(tape.op("Reshape", before, tape.ints([batch, -1, channels, n])), 1, 0, places)

    def _sums(self, which: np.ndarray, step: ir.Value) -> ir.Value:
        """Sums of the steps [B,g,s,D] that each row of `which` [r,s] names: [B,g,r,D].

        A product and a sum rather than a MatMul: TensorRT fuses them with what is around, and no runtime lacks them.
        """
        named = self.tape.op("Mul", self._wide(step, 2), self._constant(which[:, :, None]))
        return self.tape.reduce("ReduceSum", named, 3)

    def _decay(self, step: ir.Value) -> ir.Value:
        """exp(step * A), [..., D] -> [..., D, n]."""
        return self.tape.op("Exp", self.tape.op("Mul", self._wide(step, -1), self.scan.matrix))

    def _read(self, state: ir.Value, columns: ir.Value) -> ir.Value:
        """[..., D, n] . [..., 1, n] -> [..., D]."""
        return self.tape.reduce("ReduceSum", self.tape.op("Mul", state, columns), -1)

    def _places(self, value: ir.Value) -> tuple[ir.Value, ...]:
        """[B,m,c,...] -> c times [B,m,1,...]."""
        places = self.tape.shape(value)[2]
        if places == 1:
            return (value,)
        return self.tape.ops("Split", value, self.tape.ints([1] * places), outputs=places, axis=2)

    def _wide(self, value: ir.Value, axis: int) -> ir.Value:
        return self.tape.op("Unsqueeze", value, self.tape.ints([axis]))

    def _constant(self, array: np.ndarray) -> ir.Value:
        return self.shared.constant(array.astype(np.float32))


def default_chunk(tokens: int) -> int:
    """Tokens of a chunk, by the length of the scan: 12, or a divisor of the length from 8 to 14; up to 16 all.

    In engines of a Vim by TensorRT-RTX, chunks of 10 to 14 took the fewest launches and moved the fewest bytes; of 20
    they moved twice as many. A divisor spares the padding. The device has no say: engines are built for a compute
    capability and not for a number of SMs, and these counts are the same for all.
    """
    if tokens <= _ONE_CHUNK:
        return tokens
    return next((size for size in _SIZES if tokens % size == 0), _SIZES[0])


def write_chunks(tape: Tape, shared: Tape, scan: Operands, chunk: int) -> ir.Value:
    """Write a scan in chunks of `chunk` tokens; the result, [B,T,D].

    Shapes: static; the last chunk is filled up with zeros.
    Cost: two exponentials and some ten operations for each of [B,T,D,n], and the pairs of chunks, [B,m,m,D,n]; some
        40 + 4 c nodes.
    Source: Blelloch 1990, "Prefix sums and their applications", section 1.4, on recurrences h = a h + b: chunks of any
        size, here with all pairs of chunks in the place of a tree.
    """
    return _Writer(tape, shared, scan, min(chunk, scan.tokens)).write()
