"""Rules of operators that compute: elementwise, softmax, normalisation, reduction, products, convolution."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune.core.flow.call import (
    broadcast,
    has_grid,
    has_tokens,
    is_pooled,
    same_meaning,
    sole_tokens,
)
from edgeprune.core.flow.labels import Axis, Grid, Label, Segment, Tokens, axis_size, plain_axis
from edgeprune.core.flow.rules_scan import is_causal
from edgeprune.core.refusals import RefusalCode

if TYPE_CHECKING:
    from edgeprune.core.flow.call import Call


def elementwise(call: Call) -> list[Label]:
    """Every operand is broadcast against the others."""
    operands = {i: call.axes(i) for i, value in enumerate(call.node.inputs) if value is not None}
    return [Label(broadcast(call, operands), is_pooled(call))] * len(call.node.outputs)


def unary(call: Call) -> list[Label]:
    """The first input's axes; further inputs are scalars or per-tensor parameters."""
    return [call.label(0)] * len(call.node.outputs)


def softmax(call: Call) -> list[Label]:
    """Over tokens the result is normalised: only then may the tokens be contracted."""
    label = call.label(0)
    index = call.attr("axis", -1) % len(label.axes)
    axis = label.axes[index]
    if not has_tokens(axis):
        return [label]
    tokens = sole_tokens(axis)
    if tokens is None:
        call.decline(RefusalCode.TOKEN_AXIS_SPLIT, "a softmax runs over tokens merged with another axis")
    return [label.with_axis(index, (replace(tokens, softmaxed=True),))]


def normalise_last(call: Call) -> list[Label]:
    """LayerNormalization, RMSNormalization: statistics over the axes from `axis` on."""
    label = call.label(0)
    start = call.attr("axis", -1) % len(label.axes)
    _refuse_normalised(call, label, range(start, len(label.axes)))
    return [label]


def normalise_spatial(call: Call) -> list[Label]:
    """InstanceNormalization, GroupNormalization: statistics over channels and all spatial axes."""
    label = call.label(0)
    _refuse_normalised(call, label, range(1, len(label.axes)))
    return [label]


def batch_normalisation(call: Call) -> list[Label]:
    """At inference an affine map per channel: tokens may sit anywhere but on the channels."""
    label = call.label(0)
    _refuse_normalised(call, label, range(1, min(2, len(label.axes))))
    return [label]


def normalise_axis(call: Call) -> list[Label]:
    """LpNormalization: one axis."""
    label = call.label(0)
    _refuse_normalised(call, label, [call.attr("axis", -1) % len(label.axes)])
    return [label]


def _refuse_normalised(call: Call, label: Label, axes: range | list[int]) -> None:
    if any(has_tokens(label.axes[i]) for i in axes):
        call.decline(RefusalCode.NORMALISED_OVER_TOKENS, "a normalisation runs over the tokens")


def reduce(call: Call) -> list[Label]:
    """Over tokens a pool: its result may feed a head, but must not meet tokens again."""
    label = call.label(0)
    wanted = call.axes_argument(1)
    rank = len(label.axes)
    reduced = {i % rank for i in wanted} if wanted else set(range(rank))
    pooled = label.pooled
    for i in reduced:
        pooled |= _pools_tokens(call, label.axes[i])
    keep = call.attr("keepdims", 1)
    axes: tuple[Axis, ...] = tuple(
        () if i in reduced else axis for i, axis in enumerate(label.axes) if keep or i not in reduced
    )
    return [Label(axes, pooled)]


def _pools_tokens(call: Call, axis: Axis) -> bool:
    """Whether reducing this axis makes a statistic over tokens that were not softmaxed."""
    if not has_tokens(axis):
        return False
    tokens = sole_tokens(axis)
    if tokens is None:
        call.decline(RefusalCode.TOKEN_AXIS_SPLIT, "a reduction runs over tokens merged with another axis")
    if call.node.op_type in {"ReduceSum", "ReduceSumSquare", "ReduceProd"} and not tokens.softmaxed:
        call.decline(RefusalCode.CONTRACTION_WITHOUT_SOFTMAX, "tokens are summed without a softmax before")
    removable = not all(map(call.resize.stays, tokens.segments))
    return removable and not tokens.softmaxed


def matmul(call: Call) -> list[Label]:
    """Batch axes broadcast; tokens are contracted with themselves, after a softmax, or not at all."""
    a, b = call.axes(0), call.axes(1)
    if len(a) < 2 or len(b) < 2:
        call.decline(RefusalCode.NO_RULE, "a product with a vector has no rule")
    contract(call, a[-1], b[-2])
    lead = broadcast(call, {0: a[:-2], 1: b[:-2]}, tail=2)
    return [Label((*lead, a[-2], b[-1]), is_pooled(call))]


def contract(call: Call, left: Axis, right: Axis) -> None:
    """Check one contraction: no tokens, or the same softmaxed tokens on both sides."""
    if has_grid(left) or has_grid(right):
        call.decline(RefusalCode.CONVOLUTION_OVER_TOKENS, "a product mixes the positions of the patch grid")
    if not has_tokens(left) and not has_tokens(right):
        return
    if not (has_tokens(left) and has_tokens(right)):
        call.decline(RefusalCode.CONTRACTION_WITH_WEIGHT, "tokens are contracted with something of a fixed length")
    if not same_meaning(left, right):
        call.decline(RefusalCode.SEGMENTS_DIFFER, "two operands carry different tokens along the contracted axis")
    if not any(isinstance(f, Tokens) and f.softmaxed for f in (*left, *right)):
        call.decline(
            RefusalCode.CONTRACTION_WITHOUT_SOFTMAX,
            "tokens are contracted without a softmax over them (channel or linear attention)",
        )


def gemm(call: Call) -> list[Label]:
    """Two matrices, each perhaps transposed, and a bias that broadcasts."""
    a = call.axes(0)[::-1] if call.attr("transA", 0) else call.axes(0)
    b = call.axes(1)[::-1] if call.attr("transB", 0) else call.axes(1)
    contract(call, a[1], b[0])
    out = (a[0], b[1])
    if call.has(2) and any(map(has_tokens, call.axes(2))):
        call.decline(RefusalCode.NO_RULE, "the bias of a Gemm carries tokens")
    if call.has(2) and has_tokens(a[0]) and len(call.axes(2)) > 1 and axis_size(call.axes(2)[0]) > 1:
        call.decline(RefusalCode.POSITION_BOUND, "the bias of a Gemm differs from token to token")
    return [Label(out, is_pooled(call))]


def einsum(call: Call) -> list[Label]:
    """One letter an axis; a letter that is missing in the output is contracted."""
    attribute = call.node.attributes.get("equation")
    equation = attribute.as_string().replace(" ", "") if attribute is not None else ""
    if "->" not in equation or "." in equation:
        call.decline(RefusalCode.NO_RULE, f"no rule for the equation `{equation}`")
    terms, result = equation.split("->")
    meaning: dict[str, Axis] = {}
    for i, term in enumerate(terms.split(",")):
        for letter, axis in zip(term, call.axes(i), strict=True):
            if letter not in meaning:
                meaning[letter] = axis
            elif letter not in result:
                contract(call, meaning[letter], axis)
            else:
                meaning[letter] = _einsum_shared(call, meaning[letter], axis)
    _refuse_summed(call, terms, result, meaning)
    return [Label(tuple(meaning[letter] for letter in result), is_pooled(call))]


def _refuse_summed(call: Call, terms: str, result: str, meaning: dict[str, Axis]) -> None:
    """A letter of one operand alone that the result lacks is a sum."""
    if any(has_tokens(axis) and letter not in result and terms.count(letter) == 1 for letter, axis in meaning.items()):
        call.decline(RefusalCode.CONTRACTION_WITHOUT_SOFTMAX, "tokens are summed by an Einsum")


def _einsum_shared(call: Call, first: Axis, second: Axis) -> Axis:
    if has_tokens(first) != has_tokens(second):
        call.decline(RefusalCode.POSITION_BOUND, "an Einsum operand of the old length is aligned with the tokens")
    if has_tokens(first) and not same_meaning(first, second):
        call.decline(RefusalCode.SEGMENTS_DIFFER, "two operands carry different tokens along one axis")
    return first


def convolution(call: Call) -> list[Label]:
    """On the patch grid a new grid; on tokens behind a cut only where each is seen alone, or in front of a scan."""
    label = call.label(0)
    if any(call.labels[i] is not None for i in range(1, len(call.labels))):
        call.decline(RefusalCode.CONTRACTION_WITH_WEIGHT, "tokens are used as the weights of a convolution")
    if has_tokens(label.axes[1]) or has_grid(label.axes[1]):
        call.decline(RefusalCode.CONTRACTION_WITH_WEIGHT, "a convolution contracts the tokens")
    channels = plain_axis(call.out_shape()[1])
    spatial = [_convolved(call, i, axis) for i, axis in enumerate(label.axes[2:])]
    return [Label((label.axes[0], channels, *spatial), label.pooled)]


def _convolved(call: Call, index: int, axis: Axis) -> Axis:
    if not has_tokens(axis):
        return _new_extent(axis, call.out_shape()[index + 2])
    alone = _sees_one(call, index) or is_causal(call, index)
    return axis if alone else _mixed_neighbours(call, index, axis)


def _mixed_neighbours(call: Call, index: int, axis: Axis) -> Axis:
    """As many tokens as before, each mixed with its neighbours, as in a position embedding; perhaps padding at the end.

    Refuses: `convolution-over-tokens` behind a cut, or where tokens get fewer.
    """
    tokens, strides = sole_tokens(axis), call.attr_ints("strides") or ()
    extra = call.out_shape()[index + 2] - axis_size(axis)
    reason = "a convolution or pool runs over neighbouring tokens"
    if tokens is None or extra < 0 or any(stride != 1 for stride in strides):
        call.decline(RefusalCode.CONVOLUTION_OVER_TOKENS, reason)
    call.needs_all(RefusalCode.CONVOLUTION_OVER_TOKENS, reason)
    padding = (Segment(0, extra, fresh=True),) if extra else ()
    segments = (*padding, *tokens.segments) if tokens.flipped else (*tokens.segments, *padding)
    return (Tokens(segments, flipped=tokens.flipped),)


def _new_extent(axis: Axis, size: int) -> Axis:
    """A grid axis after its extent changed; a plain axis stays plain."""
    return (replace(axis[0], size=size),) if axis and isinstance(axis[0], Grid) else plain_axis(size)


def _sees_one(call: Call, index: int) -> bool:
    """Whether the window along one spatial axis is a single position with stride 1 and no padding."""
    kernel = call.attr_ints("kernel_shape") or (call.shape(1)[2:] if call.has(1) else ())
    strides = call.attr_ints("strides") or (1,) * len(kernel)
    pads = call.attr_ints("pads") or (0,) * (2 * len(kernel))
    return kernel[index] == strides[index] == 1 and pads[index] == pads[index + len(kernel)] == 0


def resize_grid(call: Call) -> list[Label]:
    """Resize, Pad and global pools: the grid gets another extent, tokens must not."""
    label = call.label(0)
    if len(call.out_shape()) != len(label.axes):
        call.decline(RefusalCode.NO_RULE, "the rank changes")
    axes = []
    for axis, size in zip(label.axes, call.out_shape(), strict=True):
        if size == axis_size(axis):
            axes.append(axis)
            continue
        if any(not isinstance(f, int | Grid) for f in axis):
            call.decline(RefusalCode.CONVOLUTION_OVER_TOKENS, "the token axis is resampled or padded by position")
        axes.append(_new_extent(axis, size))
    out = Label(tuple(axes), label.pooled)
    if call.node.op_type == "Resize" and call.has(3) and out.token_axes:
        call.literal(3, tuple(call.resized(out)[i] for i in _resized_axes(call, len(axes))))
    return [out]


def _resized_axes(call: Call, rank: int) -> tuple[int, ...]:
    """The axes that the `sizes` of a Resize name."""
    named = call.attr_ints("axes")
    return tuple(range(rank)) if named is None else tuple(i % rank for i in named)


def arg_reduce(call: Call) -> list[Label]:
    """ArgMax, ArgMin and TopK over something other than tokens."""
    label = call.label(0)
    index = call.attr("axis", 0 if call.node.op_type != "TopK" else -1) % len(label.axes)
    if has_tokens(label.axes[index]):
        call.decline(RefusalCode.RUNTIME_TOKEN_GATHER, "a position among the tokens is computed at run time")
    size = call.out_shape()[index] if len(call.out_shape()) == len(label.axes) else None
    rest = (*label.axes[:index], *label.axes[index + 1 :])
    axes = label.with_axis(index, plain_axis(size)).axes if size is not None else rest
    return [Label(axes, label.pooled)] * len(call.node.outputs)


def scan(call: Call) -> list[Label]:
    """Scan, Loop, CumSum: the order of tokens is part of what is computed.

    A CumSum keeps one number a token: it may count positions in front of the first cut, but not behind.
    """
    label = call.label(0)
    if call.node.op_type != "CumSum":
        call.decline(RefusalCode.ORDER_SCAN, "tokens are processed one after another")
    if has_tokens(label.axes[call.ints(1)[0] % len(label.axes)]):
        call.needs_all(RefusalCode.ORDER_SCAN, "tokens are processed one after another")
    return [label]
