"""What is measured of a graph: probes, and the products that are written into a copy of it for them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.errors import ModelError
from edgeprune.core.graph import PREFIX, static_shape
from edgeprune.core.tape import Tape

if TYPE_CHECKING:
    from edgeprune_calibration.padding import SeenTokens

# Rank of [T, B, D], as some exports have it.
_TOKENS_FIRST = 3
# What is written for every probe.
PARTS = ("gram", "total", "rows")


@dataclass(frozen=True, slots=True)
class Probe:
    """A value whose moments are wanted.

    Attributes:
        name: under which they are returned.
        node: name of an output of the node that reads the value; such names survive cuts of tokens.
        index: which input of that node.
        heads: 0 for moments of the last axis over all others; else the number of heads, of which each has its own.
        transposed: the value is [..., d, T], as keys are.
    """

    name: str
    node: str
    index: int = 0
    heads: int = 0
    transposed: bool = False


def _value(model: ir.Model, probe: Probe) -> ir.Value:
    for node in model.graph:
        if any(value.name == probe.node for value in node.outputs):
            value = node.inputs[probe.index]
            if value is not None and static_shape(value) is not None:
                return value
    msg = f"the graph computes no `{probe.node}` from a value of static shape"
    raise ModelError(msg, hint="this is a bug in edgeprune; please report it with the model's architecture")


def gram_shape(model: ir.Model, probe: Probe) -> tuple[int, ...]:
    """[d, d], or [H, d, d] where every head has its own."""
    shape = static_shape(_value(model, probe)) or ()
    size = shape[-2] if probe.transposed else shape[-1]
    return (probe.heads, size, size) if probe.heads else (size, size)


def add_probe(model: ir.Model, probe: Probe, batch: int, seen: SeenTokens | None) -> None:
    """Write a probe's products into the graph, and how many rows are in them (of each head)."""
    value = _value(model, probe)
    if not any(str(v.name).startswith(f"{PREFIX}probe/") for v in model.graph.outputs):
        model.graph.outputs.clear()
    counts = _counting(model, probe, batch, seen)
    tape = Tape(model, before=None, prefix=f"{PREFIX}probe/{probe.name}")
    shape = static_shape(value) or ()
    if probe.transposed:
        order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        value, shape = tape.op("Transpose", value, perm=order), tuple(shape[i] for i in order)
    if probe.heads:
        rows, flat = _by_head(tape, value, shape, probe.heads, batch)
    else:
        rows = prod(shape[:-1])
        flat = tape.op("Reshape", value, tape.ints([rows, shape[-1]]))
    count = tape.scalar(rows)
    if counts is not None:
        if shape[0] != batch and shape[1] == batch and len(shape) == _TOKENS_FIRST:
            counts = tape.op("Transpose", counts, perm=[1, 0])
        column = tape.op("Reshape", counts, tape.ints([rows, 1]))
        flat = tape.op("Where", column, flat, tape.constant(np.zeros((), _dtype(flat))))
        count = tape.reduce("ReduceSum", tape.op("Cast", column, to=ir.DataType.FLOAT), (0, 1))
    gram = tape.op("MatMul", tape.op("Transpose", flat, perm=[0, 2, 1] if probe.heads else [1, 0]), flat, name="gram")
    total = tape.op("Identity", tape.reduce("ReduceSum", flat, int(bool(probe.heads))), name="total")
    model.graph.outputs.extend([gram, total, tape.op("Identity", count, name="rows")])


def _counting(model: ir.Model, probe: Probe, batch: int, seen: SeenTokens | None) -> ir.Value | None:
    """[B, T], which tokens of a probe's value are no padding; None where all count."""
    if seen is None:
        return None
    value = _value(model, probe)
    shape = static_shape(value) or ()
    tokens = shape[-1 if probe.transposed else -2] if probe.heads else prod(shape[:-1]) // batch
    node = next(n for n in model.graph if any(v.name == probe.node for v in n.outputs))
    return seen.beside(node, tokens)


def _dtype(value: ir.Value) -> np.dtype[np.generic]:
    return value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)


def _by_head(tape: Tape, value: ir.Value, shape: tuple[int, ...], heads: int, batch: int) -> tuple[int, ir.Value]:
    """[B, H, T, d] or [B*H, T, d] as [H, B*T, d]."""
    tokens, size = shape[-2:]
    four = tape.op("Reshape", value, tape.ints([batch, heads, tokens, size]))
    ordered = tape.op("Transpose", four, perm=[1, 0, 2, 3])
    return batch * tokens, tape.op("Reshape", ordered, tape.ints([heads, batch * tokens, size]))
