"""Rules of selective scans: the operator itself, the causal convolution in front of it, and what binds it to a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.flow.call import Declined, broadcast, has_tokens, is_pooled, sole_tokens
from edgeprune.core.flow.labels import Label
from edgeprune.core.graph import consumers, downstream, name_of, static_shape
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.scans import is_selective_scan, selective_scans

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.flow.call import Call

_OPERANDS = (0, 1, 3, 4)  # step, input, B, C: one row a token
_MATRIX = 2

# What may stand between a convolution and the scan that it serves: each token by itself, in the same order.
_BY_TOKEN = frozenset(
    "Add Cast Clip Div Erf Exp Gelu HardSwish Identity Mish Mul Neg Relu Reshape Sigmoid Softplus Split Squeeze Sub"
    " Swish Tanh Transpose Unsqueeze Where".split()
)
_LAYOUT = frozenset("Cast Identity Reshape Transpose Unsqueeze".split())
_PICTURE = 4  # axes of what a convolution over a grid reads


def selective_scan(call: Call) -> list[Label]:
    """All four operands hold the same tokens in the same direction; the result holds them too.

    Refuses: `scan-over-tokens` where it does not run along the tokens alone.
    """
    if call.labels[_MATRIX] is not None:
        call.decline(RefusalCode.CONTRACTION_WITH_WEIGHT, "tokens are used as the matrix of a scan")
    operands = {i: call.axes(i) for i in _OPERANDS}
    if any(has_tokens(axes[0]) or has_tokens(axes[2]) for axes in operands.values()):
        call.decline(RefusalCode.ORDER_SCAN, "a scan runs along another axis than the tokens'")
    lead = broadcast(call, {i: axes[:2] for i, axes in operands.items()}, tail=1)
    if sole_tokens(lead[1]) is None:
        call.decline(RefusalCode.ORDER_SCAN, "a scan runs along something else than the tokens in their order")
    return [Label((*lead, operands[0][2]), is_pooled(call))]


def is_causal(call: Call, index: int) -> bool:
    """Whether a convolution over tokens, a channel at a time, sees a token and those before it, for a scan behind it.

    Behind a cut it sees the neighbours that are left.
    """
    if call.node.op_type != "Conv" or len(call.out_shape()) != len(("batch", "channels", "T")):
        return False
    if sole_tokens(call.label(0).axes[index + 2]) is None:
        return False
    weight, channels = call.shape(1), call.shape(0)[1]
    before = (call.attr_ints("dilations") or (1,))[0] * (weight[2] - 1)
    depthwise = call.attr("group", 1) == channels == weight[0] == call.out_shape()[1]
    in_order = call.attr_ints("strides") in {None, (1,)} and call.attr_ints("pads") == (before, 0)
    return depthwise and in_order and _pads_itself(call.node) and serves_scan(call.node)


def _pads_itself(node: ir.Node) -> bool:
    """Whether `pads` is what counts."""
    return "auto_pad" not in node.attributes or node.attributes["auto_pad"].as_string() in {"", "NOTSET"}


def serves_scan(node: ir.Node) -> bool:
    """Whether what a node makes goes into a selective scan, token by token, through no product."""
    stack, seen = [node], {node}
    while stack:
        for user in (user for value in stack.pop().outputs for user in consumers(value)):
            if is_selective_scan(user):
                return True
            if user.op_type in _BY_TOKEN and not user.domain and user not in seen:
                seen.add(user)
                stack.append(user)
    return False


def refuse_grid_convolution(node: ir.Node) -> None:
    """Refuse the reshape of tokens into the patch grid for a 2-D convolution between the scans, in its own words.

    Raises:
        Declined: `convolution-over-tokens`, at the convolution.
    """
    front = list(node.outputs)
    while front:
        for user in consumers(front.pop()):
            if user.op_type in _LAYOUT:
                front += user.outputs
            elif user.op_type == "Conv" and len(static_shape(user.outputs[0]) or ()) >= _PICTURE and _scanned(user):
                reason = "a 2-D convolution inside the block needs the whole patch grid (Conv node)"
                raise Declined(Refusal(RefusalCode.CONVOLUTION_OVER_TOKENS, reason, (name_of(user),)))


def _scanned(node: ir.Node) -> bool:
    return bool(selective_scans(downstream(node.outputs)))
