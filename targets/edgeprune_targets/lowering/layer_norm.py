"""LayerNormalization by its definition, for parsers without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune_targets.lowering._rewrite import (
    as_float,
    as_type,
    float_of,
    int_of,
    nodes_of,
    only_first_output,
    replace,
    tape_before,
)

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.tape import Tape


def decompose_layer_norm(model: ir.Model) -> int:
    """Write (x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias, centred first, all in fp32.

    The shape ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div is the one that exporters wrote before opset 17, which
    builders know as a normalisation.
    """
    nodes = [node for node in nodes_of(model, "LayerNormalization") if only_first_output(node)]
    for node in nodes:
        _decompose(model, node)
    return len(nodes)


def _decompose(model: ir.Model, node: ir.Node) -> None:
    x, scale = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    assert x is not None
    assert scale is not None
    tape = tape_before(model, node)
    high = as_float(tape, x)
    rank = len(tape.shape(high))
    axes = tuple(range(int_of(node, "axis", -1) % rank, rank))
    centred = tape.op("Sub", high, tape.reduce("ReduceMean", high, axes, keepdims=True))
    y = normalised(tape, centred, axes, float_of(node, "epsilon", 1e-5))
    y = tape.op("Mul", as_type(tape, y, scale), scale)
    if bias is not None:
        y = tape.op("Add", y, bias)
    replace(model, node, as_type(tape, y, node.outputs[0]))


def normalised(tape: Tape, x: ir.Value, axes: tuple[int, ...], epsilon: float) -> ir.Value:
    """Divide by the root of the mean square: x / sqrt(mean(x^2) + epsilon)."""
    square = tape.reduce("ReduceMean", tape.op("Pow", x, tape.scalar(2.0)), axes, keepdims=True)
    return tape.op("Div", x, tape.op("Sqrt", tape.op("Add", square, tape.scalar(epsilon))))
