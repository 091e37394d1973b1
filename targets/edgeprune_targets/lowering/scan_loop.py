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

BODY = "selective_scan"  # by this name a loop is known again

# Axes of size 1 are added outside: in fp16 TensorRT-RTX 1.7 mistakes what is added inside behind a Cast.
_TEXT = """
{name} (float[{b},{d},{n}] h, float[{b},{d},1] step, float[{b},{d},1] x, float[{b},1,{n}] B, float[{b},{n},1] C,
    float[{d},{n}] A) => (float[{b},{d},{n}] state, float[{b},{d},1] y)
<float[{b},{d},{n}] exponent, float[{b},{d},{n}] decay, float[{b},{d},{n}] kept, float[{b},{d},{n}] added>
{{
    exponent = Mul (step, A)
    decay = Exp (exponent)
    kept = Mul (decay, h)
    added = Mul (x, B)
    state = Add (kept, added)
    y = MatMul (state, C)
}}
"""


def write_loop(tape: Tape, shared: Tape, scan: Operands) -> ir.Value:
    """Write a scan token by token; the result, [B,T,D].

    Shapes: static; the body's too.
    Cost: one node, whose body runs T times: 2 D n multiply-accumulates a token.
    """
    start = shared.constant(np.zeros((scan.batch, scan.channels, scan.states), np.float32), name="start")
    wide = ((scan.step, 3), (scan.input, 3), (scan.rows, 2), (scan.columns, 3))
    operands = [tape.op("Unsqueeze", value, tape.ints([axis])) for value, axis in wide]
    axes = {"scan_input_axes": [1, 1, 1, 1], "scan_output_axes": [1]}
    last, y = tape.ops("Scan", start, *operands, outputs=2, name="Scan", body=_body(scan), num_scan_inputs=4, **axes)
    last.shape, y.shape = start.shape, ir.Shape((scan.batch, scan.tokens, scan.channels, 1))
    last.dtype = y.dtype = ir.DataType.FLOAT
    return tape.op("Squeeze", y, tape.ints([3]))


def _body(scan: Operands) -> ir.Graph:
    """One token; A lies inside where it is constant: a body that reads from outside cannot be typed in fp16."""
    text = _TEXT.format(name=BODY, b=scan.batch, d=scan.channels, n=scan.states)
    graph = ir.serde.deserialize_graph(onnx.parser.parse_graph(text))
    matrix = graph.inputs.pop()
    array = constant_of(scan.matrix)
    if array is None:
        ir.convenience.replace_all_uses_with(matrix, scan.matrix)
    else:
        matrix.const_value = ir.tensor(array, name="A")
        graph.register_initializer(matrix)
    return graph
