"""Recurrences in forms that are not raised, told by what they leave in the graph, so that the refusal has a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of, consumers, name_of, static_shape
from edgeprune.core.refusals import Refusal, RefusalCode

if TYPE_CHECKING:
    import onnx_ir as ir

_PARALLEL = (
    "the decay of a selective scan stands here, and no recurrence reads it one token after the other: a parallel "
    "(associative, log-depth) scan is not raised, export the sequential form"
)
_CHUNKED = "sums of steps over tokens are exponentiated: a scan in chunks (Mamba-2, SSD) is not raised"
_LOST = (
    "what stands in for states is made of single tokens, and none is passed on: the exporter lost the recurrence, as "
    "tracing does that of a scan with a backward pass of its own; export the sequential form"
)
_MOVES = {"Cast", "Identity", "Pad", "Reshape", "Slice", "Transpose"}
_LAYOUT = {"Cast", "Expand", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Mul", "Neg", "Sub", "Where"}
_NEAR = 32


def foreign_scans(model: ir.Model) -> list[Refusal]:
    """A refusal for each form that is there; to be asked where nothing was raised and nothing refused."""
    found = []
    decays = [node for node in model.graph if node.op_type == "Exp" and _is_decay(node)]
    if decays:
        found.append(_refusal(_PARALLEL, decays))
    sums = [node for node in model.graph if node.op_type == "CumSum" and _is_exponentiated(node)]
    if sums:
        found.append(_refusal(_CHUNKED, sums))
    lost = [node for node in model.graph if node.op_type == "MatMul" and _reads_single_tokens(node)]
    if lost and not found:
        found.append(_refusal(_LOST, lost))
    return found


def _reads_single_tokens(node: ir.Node) -> bool:
    """(step * B * u) . C without a recurrence between: an outer product over channels and states, contracted again."""
    left, right = node.inputs
    states, column = (static_shape(value) if value is not None else None for value in (left, right))
    if left is None or states is None or column is None or len(states) < 4 or column[-1] != 1 or column[-2] < 2:
        return False
    made = left.producer()
    while made is not None and made.op_type in _MOVES and made.inputs[0] is not None:
        made = made.inputs[0].producer()
    shapes = _factors(made) if made is not None and made.op_type == "Mul" else []
    channels = any(len(shape) > 2 and shape[-1] == 1 < shape[-2] for shape in shapes)
    return channels and any(len(shape) > 2 and shape[-2] == 1 < shape[-1] for shape in shapes)


def _factors(node: ir.Node) -> list[tuple[int, ...]]:
    """Shapes of the factors of a product, and of those that are products again."""
    shapes: list[tuple[int, ...]] = []
    stack = [node]
    while stack and len(shapes) < _NEAR:
        for value in stack.pop().inputs:
            made = value.producer() if value is not None else None
            shapes.append((static_shape(value) or ()) if value is not None else ())
            stack += [made] if made is not None and made.op_type == "Mul" else []
    return shapes


def _refusal(reason: str, nodes: list[ir.Node]) -> Refusal:
    return Refusal(RefusalCode.NOT_SELECTIVE_SCAN, reason, (name_of(nodes[0]),))


def _is_decay(node: ir.Node) -> bool:
    """exp(step * A): A is a constant matrix, and the step has one of its two axes, and tokens or a batch beside."""
    made = node.inputs[0].producer() if node.inputs[0] is not None else None
    if made is None or made.op_type != "Mul":
        return False
    first, second = made.inputs
    if constant_of(first) is not None:
        first, second = second, first
    matrix = constant_of(second)
    step = static_shape(first) if first is not None else None
    if matrix is None or step is None or len(step) < 3 or sum(size > 1 for size in matrix.shape) != 2:
        return False
    pairs = list(zip(reversed(step), reversed(matrix.shape), strict=False))
    return any(a == 1 < b for a, b in pairs) and any(a == b > 1 for a, b in pairs)


def _is_exponentiated(node: ir.Node) -> bool:
    stack, seen = [node], {node}
    while stack and len(seen) < _NEAR:
        for user in consumers(stack.pop().outputs[0]):
            if user.op_type == "Exp":
                return True
            if user.op_type in _LAYOUT and user not in seen:
                seen.add(user)
                stack.append(user)
    return False
