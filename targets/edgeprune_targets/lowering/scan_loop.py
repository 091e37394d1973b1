"""A selective scan as one ONNX `Scan` over the tokens, with static shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from edgeprune.core.graph import constant_of

if TYPE_CHECKING:
    from edgeprune.core.tape import Tape
    from edgeprune_targets.lowering.scan_chunks import Operands

_BODY = """
token (float[{b},{d},{n}] h, float[{b},{d}] step, float[{b},{d}] x, float[{b},{n}] B, float[{b},{n}] C,
    float[{d},{n}] A) => (float[{b},{d},{n}] state, float[{b},{d}] y)
<float[{b},{d},1] steps, float[{b},{d},{n}] exponent, float[{b},{d},{n}] decay, float[{b},{d},{n}] kept,
    float[{b},{d},1] inputs, float[{b},1,{n}] rows, float[{b},{d},{n}] added, float[{b},{n},1] columns,
    float[{b},{d},1] read, int64[1] last = {{2}}, int64[1] row = {{1}}>
{{
    steps = Unsqueeze (step, last)
    exponent = Mul (steps, A)
    decay = Exp (exponent)
    kept = Mul (decay, h)
    inputs = Unsqueeze (x, last)
    rows = Unsqueeze (B, row)
    added = Mul (inputs, rows)
    state = Add (kept, added)
    columns = Unsqueeze (C, last)
    read = MatMul (state, columns)
    y = Squeeze (read, last)
}}
"""


def write_loop(tape: Tape, shared: Tape, scan: Operands) -> ir.Value:
    """Write a scan token by token; the result, [B,T,D].

    Shapes: static; the body's too.
    Cost: one node, whose body runs T times: 2 D n multiply-accumulates a token.
    """
    start = shared.constant(np.zeros((scan.batch, scan.channels, scan.states), np.float32), name="start")
    operands = (start, scan.step, scan.input, scan.rows, scan.columns)
    axes = {"scan_input_axes": [1, 1, 1, 1], "scan_output_axes": [1]}
    last, y = tape.ops("Scan", *operands, outputs=2, name="Scan", body=_body(scan), num_scan_inputs=4, **axes)
    last.shape, y.shape = start.shape, scan.step.shape
    last.dtype = y.dtype = ir.DataType.FLOAT
    return y


def _body(scan: Operands) -> ir.Graph:
    """One token; A lies inside where it is constant: a body that reads from outside cannot be typed in fp16."""
    text = _BODY.format(b=scan.batch, d=scan.channels, n=scan.states)
    graph = ir.serde.deserialize_graph(onnx.parser.parse_graph(text))
    matrix = graph.inputs.pop()
    array = constant_of(scan.matrix)
    if array is None:
        ir.convenience.replace_all_uses_with(matrix, scan.matrix)
    else:
        matrix.const_value = ir.tensor(array, name="A")
        graph.register_initializer(matrix)
    return graph
