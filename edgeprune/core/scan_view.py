"""What stands around a selective scan: its direction, the skip behind it, the bias of its steps. Found by data flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of, consumers
from edgeprune.core.scans import Scan

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.flow.engine import Flow

_LAYOUT = frozenset("Cast Identity Reshape Squeeze Transpose Unsqueeze".split())


def find_scan(flow: Flow, node: ir.Node) -> Scan:
    """The view of a selective scan that the flow has reached."""
    label = flow.labels[node.outputs[0]]
    tokens = label.tokens_at(label.token_axes[0])
    scan = Scan(node, _behind_skip(flow, node.outputs[0]), flipped=tokens is not None and tokens.flipped)
    return Scan(node, scan.output, scan.flipped, _bias(scan.step, scan.channels))


def _behind_skip(flow: Flow, result: ir.Value) -> ir.Value:
    """The result with D * u added to it, where the model does so."""
    value = result
    while True:
        users = list(consumers(value))
        for node in users:
            if node.op_type == "Add" and any(
                _is_skip(flow, v) for v in node.inputs if v is not None and v is not value
            ):
                return node.outputs[0]
        if len(users) != 1 or users[0].op_type not in _LAYOUT:
            return result
        value = users[0].outputs[0]


def _is_skip(flow: Flow, value: ir.Value) -> bool:
    """Whether a value is tokens times a constant."""
    node = value.producer()
    while node is not None and node.op_type in _LAYOUT and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "Mul":
        return False
    constants = [v for v in node.inputs if constant_of(v) is not None]
    return len(constants) == 1 and any(flow.tokens_on(v) for v in node.inputs if v is not None)


def _bias(step: ir.Value, channels: int) -> ir.Value | None:
    """The initializer of `channels` numbers that is added to the step before its softplus; None if there is none."""
    node = _past_layout(step)
    if node is not None and node.op_type == "Where":  # the identity for large numbers, as PyTorch's softplus has it
        branches = [_past_layout(v) for v in node.inputs[1:] if v is not None]
        node = next((branch for branch in branches if branch is not None and branch.op_type == "Softplus"), None)
    if node is None or node.op_type != "Softplus" or node.inputs[0] is None:
        return None
    node = _past_layout(node.inputs[0])
    added = {"Add": (0, 1), "Gemm": (2,)}.get(node.op_type, ()) if node is not None else ()
    for index in added:
        value = node.inputs[index] if node is not None and index < len(node.inputs) else None
        array = constant_of(value)
        if array is not None and array.size == channels:
            return value
    return None


def _past_layout(value: ir.Value) -> ir.Node | None:
    """The node that computes a value, not counting what only moves its axes."""
    node = value.producer()
    while node is not None and (node.op_type in _LAYOUT or _flips(node)) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _flips(node: ir.Node) -> bool:
    """Whether a Slice takes its input from the end."""
    steps = constant_of(node.inputs[4]) if node.op_type == "Slice" and len(node.inputs) > 4 else None
    return steps is not None and steps.tolist() == [-1]
