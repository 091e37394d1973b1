"""Gelu (opset 20) as a chain around Erf or Tanh."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgeprune_targets.lowering._rewrite import nodes_of, replace, tape_before, text_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.tape import Tape


def decompose_gelu(model: ir.Model) -> int:
    """Write x/2 * (1 + erf(x/sqrt 2)), or its tanh form where the node asks for that.

    TensorRT-RTX ends with the same number of kernels for the chain as for the operator.
    """
    nodes = list(nodes_of(model, "Gelu"))
    for node in nodes:
        _decompose(model, node)
    return len(nodes)


def _decompose(model: ir.Model, node: ir.Node) -> None:
    x = node.inputs[0]
    assert x is not None
    tape = tape_before(model, node)
    bent = _tanh(tape, x) if text_of(node, "approximate", "none") == "tanh" else _erf(tape, x)
    half = tape.op("Mul", x, _number(tape, x, 0.5))
    replace(model, node, tape.op("Mul", half, tape.op("Add", bent, _number(tape, x, 1.0))))


def _erf(tape: Tape, x: ir.Value) -> ir.Value:
    return tape.op("Erf", tape.op("Div", x, _number(tape, x, math.sqrt(2))))


def _tanh(tape: Tape, x: ir.Value) -> ir.Value:
    """tanh(sqrt(2/pi) * x * (1 + 0.044715 x^2)): a cube that overflows fp16 is still on the right side of tanh."""
    inner = tape.op("Mul", tape.op("Mul", x, x), _number(tape, x, 0.044715))
    inner = tape.op("Mul", x, tape.op("Add", inner, _number(tape, x, 1.0)))
    return tape.op("Tanh", tape.op("Mul", inner, _number(tape, x, math.sqrt(2 / math.pi))))


def _number(tape: Tape, like: ir.Value, number: float) -> ir.Value:
    assert like.dtype is not None
    return tape.constant(np.asarray(number, like.dtype.numpy()))
