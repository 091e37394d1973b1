"""The selective scan: one operator that every spelling is raised to, and one view of it for what is written from it.

    h_t = exp(step_t * A) * h_(t-1) + input_t * B_t        y_t = h_t . C_t        h_0 = 0

`edgeprune::SelectiveScan` is a function that the model carries with it, so a graph that holds one runs in ONNX Runtime
as it is. Only the decay reads `step`: what a removed token would have let decay is added there, and the input of the
kept ones (delta * u in Mamba's words) stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from edgeprune.core.graph import static_shape

if TYPE_CHECKING:
    from collections.abc import Iterable

DOMAIN = "edgeprune"
OPERATOR = "SelectiveScan"
SELECTIVE_SCAN = f"{DOMAIN}::{OPERATOR}"

_OLDEST_OPSET = 13  # Squeeze and Unsqueeze take their axes as inputs from here on
_FUNCTIONS_SINCE = 8  # version of ONNX's IR

_BODY = """
<domain: "edgeprune", opset_import: ["" : OPSET]>
SelectiveScan (step, input, A, B, C) => (y)
{
    first = Constant <value_ints = [0]> ()
    sizes = Shape (step)
    batch = Gather (sizes, first)
    widths = Shape (A)
    shape = Concat <axis = 0> (batch, widths)
    start = ConstantOfShape (shape)
    last, y = Scan <num_scan_inputs = 4, scan_input_axes = [1, 1, 1, 1], scan_output_axes = [1], body = token
        (float[b, d, n] h, float[b, d] step_t, float[b, d] input_t, float[b, n] B_t, float[b, n] C_t)
        => (float[b, d, n] state, float[b, d] y_t)
        {
            last_axis = Constant <value_ints = [-1]> ()
            row_axis = Constant <value_ints = [1]> ()
            steps = Unsqueeze (step_t, last_axis)
            exponent = Mul (steps, A)
            decay = Exp (exponent)
            kept = Mul (decay, h)
            inputs = Unsqueeze (input_t, last_axis)
            rows = Unsqueeze (B_t, row_axis)
            added = Mul (inputs, rows)
            state = Add (kept, added)
            columns = Unsqueeze (C_t, last_axis)
            read = MatMul (state, columns)
            y_t = Squeeze (read, last_axis)
        }> (start, step, input, B, C)
}
"""


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """A selective scan of a recognised model.

    Attributes:
        node: the `edgeprune::SelectiveScan`.
        output: fp32, tokens along one axis: what the scan gives, with the skip (D * u) where there is one.
        flipped: it runs from the last token to the first; its operands and its result are in that order.
        bias: the initializer that is added to the step before its softplus; None where there is none.
    """

    node: ir.Node
    output: ir.Value
    flipped: bool
    bias: ir.Value | None = None

    @property
    def step(self) -> ir.Value:
        """What the state decays by, delta in Mamba's words: fp32 [B, T, D]."""
        return _operand(self.node, 0)

    @property
    def input(self) -> ir.Value:
        """What goes into the state, delta * u: fp32 [B, T, D]."""
        return _operand(self.node, 1)

    @property
    def matrix(self) -> ir.Value:
        """A, fp32 [D, n], negative."""
        return _operand(self.node, 2)

    @property
    def channels(self) -> int:
        """D, channels of the scan."""
        return (static_shape(self.matrix) or (0, 0))[0]

    @property
    def states(self) -> int:
        """n, numbers of state a channel."""
        return (static_shape(self.matrix) or (0, 0))[1]


def _operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None, f"operand {index} of a selective scan is not optional"
    return value


def is_selective_scan(node: ir.Node) -> bool:
    """Whether a node is the operator of this file."""
    return node.domain == DOMAIN and node.op_type == OPERATOR


def selective_scan(operands: Iterable[ir.Value], *, name: str) -> ir.Node:
    """A new node, not yet in a graph.

    Args:
        operands: step [B, T, D], input [B, T, D], A [D, n], B [B, T, n], C [B, T, n], all fp32.
        name: of the node and of its result.
    """
    values = tuple(operands)
    node = ir.Node(DOMAIN, OPERATOR, values, num_outputs=1, name=name)
    node.outputs[0].name = name
    node.outputs[0].shape = values[0].shape
    node.outputs[0].type = values[0].type
    return node


def carry_function(model: ir.Model) -> None:
    """Let the model hold the operator's function, so that any runtime can run it. Idempotent."""
    opset = model.graph.opset_imports.get("", _OLDEST_OPSET)
    function = ir.serde.deserialize_function(onnx.parser.parse_function(_BODY.replace("OPSET", str(opset))))
    model.functions[function.identifier()] = function
    model.graph.opset_imports[DOMAIN] = 1
    model.ir_version = max(model.ir_version, _FUNCTIONS_SINCE)


def selective_scans(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """The selective scans among some nodes."""
    return [node for node in nodes if is_selective_scan(node)]
