"""Other ways to write a selective scan in plain operators, to see what the chosen one is worth.

Each takes a tape and the operands [B,T,D], [B,T,D], [D,n], [B,T,n], [B,T,n], and gives [B,T,D].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from edgeprune.core.tape import Tape
from edgeprune_targets.lowering.scan_chunks import Operands, default_chunk


def _wide(tape: Tape, value: ir.Value, axis: int) -> ir.Value:
    return tape.op("Unsqueeze", value, tape.ints([axis]))


def _decay_and_added(tape: Tape, parts: Sequence[ir.Value], matrix: ir.Value) -> tuple[ir.Value, ir.Value]:
    """exp(step A) and input * B, [..., D, n], of step, input and B."""
    step, added, rows = parts
    decay = tape.op("Exp", tape.op("Mul", _wide(tape, step, -1), matrix))
    return decay, tape.op("Mul", _wide(tape, added, -1), _wide(tape, rows, -2))


def _read(tape: Tape, states: ir.Value, columns: ir.Value) -> ir.Value:
    return tape.reduce("ReduceSum", tape.op("Mul", states, _wide(tape, columns, -2)), -1)


def doubling(tape: Tape, scan: Operands) -> ir.Value:
    """Log-depth over all tokens (Hillis and Steele): pairs (a, b) of neighbours 1, 2, 4 ... apart are joined."""
    decay, state = _decay_and_added(tape, (scan.step, scan.input, scan.rows), scan.matrix)
    apart = 1
    while apart < scan.tokens:
        edge = (scan.batch, apart, scan.channels, scan.states)

        def shifted(value: ir.Value, fill: float, edge: tuple[int, ...] = edge, apart: int = apart) -> ir.Value:
            first = tape.constant(np.full(edge, fill, np.float32))
            return tape.op("Concat", first, tape.slice(value, 1, 0, scan.tokens - apart), axis=1)

        state = tape.op("Add", state, tape.op("Mul", decay, shifted(state, 0.0)))
        if 2 * apart < scan.tokens:
            decay = tape.op("Mul", decay, shifted(decay, 1.0))
        apart *= 2
    return _read(tape, state, scan.columns)


def cumulative(tape: Tape, scan: Operands) -> ir.Value:
    """One cumulative sum S: exp(A S) * cumsum(b exp(-A S)), which overflows."""
    axis = tape.constant(np.asarray(1, np.int64))
    sums = tape.op("CumSum", scan.step, axis)
    exponent = tape.op("Mul", _wide(tape, sums, -1), scan.matrix)
    _, added = _decay_and_added(tape, (scan.step, scan.input, scan.rows), scan.matrix)
    grown = tape.op("Mul", added, tape.op("Exp", tape.op("Neg", exponent)))
    return _read(tape, tape.op("Mul", tape.op("Exp", exponent), tape.op("CumSum", grown, axis)), scan.columns)


class _Chunks:
    """Padded to chunks of c tokens."""

    def __init__(self, tape: Tape, scan: Operands) -> None:
        self.tape, self.scan, self.c = tape, scan, default_chunk(scan.tokens)
        self.m = -(-scan.tokens // self.c)
        self.step, self.added, self.rows, self.columns = map(
            self._cut, (scan.step, scan.input, scan.rows, scan.columns)
        )
        self.decay, self.part = _decay_and_added(tape, (self.step, self.added, self.rows), scan.matrix)

    def _cut(self, value: ir.Value) -> ir.Value:
        tape, (batch, tokens, width) = self.tape, self.tape.shape(value)
        value = tape.op("Pad", value, tape.ints([0, 0, 0, 0, self.m * self.c - tokens, 0]))
        return tape.op("Reshape", value, tape.ints([batch, self.m, self.c, width]))

    def pieces(self, value: ir.Value, axis: int) -> tuple[ir.Value, ...]:
        size = self.tape.shape(value)[axis]
        return self.tape.ops("Split", value, self.tape.ints([1] * size), outputs=size, axis=axis)

    def steps(
        self, decays: Sequence[ir.Value], parts: Sequence[ir.Value], state: ir.Value | None = None
    ) -> list[ir.Value]:
        """The recurrence, unrolled."""
        states = []
        for decay, part in zip(decays, parts, strict=True):
            kept = None if state is None else self.tape.op("Mul", decay, state)
            state = part if kept is None else self.tape.op("Add", kept, part)
            states.append(state)
        return states

    def handed_on(self, last: ir.Value) -> ir.Value:
        """What stands in front of each chunk, chunk after chunk, [B,m,1,D,n]."""
        sums = self.tape.reduce("ReduceSum", self.step, 2, keepdims=True)
        decay = self.tape.op("Exp", self.tape.op("Mul", _wide(self.tape, sums, -1), self.scan.matrix))
        states = self.steps(self.pieces(decay, 1)[:-1], self.pieces(last, 1)[:-1])
        start = self.tape.constant(np.zeros(self.tape.shape(states[0]), np.float32))
        return self.tape.op("Concat", start, *states, axis=1)

    def joined(self, states: ir.Value) -> ir.Value:
        """[B,m,c,D,n] read out, [B,T,D]."""
        y = _read(self.tape, states, self.columns)
        y = self.tape.op("Reshape", y, self.tape.ints([self.scan.batch, -1, self.scan.channels]))
        return self.tape.slice(y, 1, 0, self.scan.tokens)


def twice(tape: Tape, scan: Operands) -> ir.Value:
    """Chunks run twice: from nothing, for what they hand on chunk after chunk, and again from what they were handed."""
    cut = _Chunks(tape, scan)
    decays, parts = cut.pieces(cut.decay, 2), cut.pieces(cut.part, 2)
    handed = cut.handed_on(cut.steps(decays, parts)[-1])
    return cut.joined(tape.op("Concat", *cut.steps(decays, parts, handed), axis=2))


def carried(tape: Tape, scan: Operands) -> ir.Value:
    """Chunks run once; what is handed on goes chunk after chunk, and decays by products of decays."""
    cut = _Chunks(tape, scan)
    decays = cut.pieces(cut.decay, 2)
    states = cut.steps(decays, cut.pieces(cut.part, 2))
    products = [decays[0]]
    for decay in decays[1:]:
        products.append(tape.op("Mul", products[-1], decay))
    late = tape.op("Mul", tape.op("Concat", *products, axis=2), cut.handed_on(states[-1]))
    return cut.joined(tape.op("Add", tape.op("Concat", *states, axis=2), late))


CANDIDATES: dict[str, Callable[[Tape, Operands], ir.Value]] = {
    "doubling": doubling,
    "cumulative sum": cumulative,
    "chunks run twice": twice,
    "chunks in a chain": carried,
}
