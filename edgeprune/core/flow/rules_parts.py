"""Rules of operators that take parts of an axis or join them: slice, split, gather, concatenate."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from edgeprune.core.flow.call import broadcast, has_grid, has_tokens, is_pooled, sole_tokens
from edgeprune.core.flow.labels import (
    Axis,
    Batch,
    Grid,
    Label,
    Segment,
    Tokens,
    axis_size,
    merge_segments,
    plain_axis,
)
from edgeprune.core.refusals import RefusalCode

if TYPE_CHECKING:
    from edgeprune.core.flow.call import Call


def slice_(call: Call) -> list[Label]:
    """On tokens a prefix or a rest, with its literals written anew, or all from the end; elsewhere a plain part."""
    label = call.label(0)
    starts, ends = call.ints(1), call.ints(2)
    wanted = call.ints(3) if call.has(3) else tuple(range(len(starts)))
    steps = call.ints(4) if call.has(4) else (1,) * len(starts)
    new_starts, new_ends = list(starts), list(ends)
    for i, axis_index in enumerate(wanted):
        index = axis_index % len(label.axes)
        axis = label.axes[index]
        start, stop, step = slice(starts[i], ends[i], steps[i]).indices(axis_size(axis))
        size = len(range(start, stop, step))
        tokens = sole_tokens(axis)
        part: Axis
        if tokens is not None and step == -1 and size == tokens.size:
            part = (tokens.reversed(),)  # literals that run over all of it run over all of fewer
        elif has_tokens(axis):
            part, new_starts[i], new_ends[i] = _token_slice(call, axis, start, stop, step)
        else:
            part = axis if size == axis_size(axis) and step == 1 else _plain_part(call, axis, size)
        label = label.with_axis(index, part)
    if (new_starts, new_ends) != (list(starts), list(ends)):
        call.literal(1, tuple(new_starts))
        call.literal(2, tuple(new_ends))
    return [label]


def _token_slice(call: Call, axis: Axis, start: int, stop: int, step: int) -> tuple[Axis, int, int]:
    """The sliced tokens, and the slice's new start and end."""
    if sole_tokens(axis) is None or step != 1:
        call.decline(RefusalCode.SLICE_INSIDE_PATCHES, "tokens are sliced with a step, or merged with another axis")
    part = token_part(call, axis, start, stop)
    before = token_part(call, axis, 0, start)
    new_start = sum(call.resize.factor(f) for f in before)
    return part, new_start, new_start + sum(call.resize.factor(f) for f in part)


def token_part(call: Call, axis: Axis, start: int, stop: int) -> Axis:
    """Tokens `start` to `stop` of an axis; both ends must lie in the prefix or at a segment's end."""
    tokens = sole_tokens(axis)
    if tokens is None:
        return ()
    if tokens.flipped:
        start, stop = tokens.size - stop, tokens.size - start
    call.boundary(start, axis)
    call.boundary(stop, axis)
    segments: list[Segment] = []
    at = 0
    for segment in tokens.segments:
        low, high = max(start, at), min(stop, at + segment.size)
        if low < high:
            segments.append(Segment(segment.start + low - at, segment.start + high - at, segment.fresh))
        at += segment.size
    return (replace(tokens, segments=tuple(segments)),) if segments else ()


def _plain_part(call: Call, axis: Axis, size: int) -> Axis:
    if has_grid(axis):
        call.decline(RefusalCode.WINDOW_PARTITION, "the patch grid is cropped or shifted")
    if any(isinstance(f, Batch) for f in axis):
        call.decline(RefusalCode.NO_RULE, "a part of the batch is taken")
    return plain_axis(size)


def split(call: Call) -> list[Label]:
    """Like slices side by side."""
    label = call.label(0)
    index = call.attr("axis", 0) % len(label.axes)
    axis = label.axes[index]
    sizes = [call.out_shape(i)[index] for i in range(len(call.node.outputs))]
    if not has_tokens(axis):
        return [label.with_axis(index, _plain_part(call, axis, size)) for size in sizes]
    stops = list(accumulate(sizes))
    parts = [token_part(call, axis, stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
    new = tuple(sum(call.resize.factor(f) for f in part) for part in parts)
    if new != tuple(sizes):
        if not call.has(1):
            call.decline(RefusalCode.SLICE_INSIDE_PATCHES, "the tokens are split into equal parts")
        call.literal(1, new)
    return [label.with_axis(index, part) for part in parts]


def gather(call: Call) -> list[Label]:
    """By constant index a prefix token; by a labelled index a table look-up."""
    data = call.axes(0)
    index = call.attr("axis", 0) % len(data)
    inner = call.axes(1)
    if has_tokens(data[index]):
        inner = _gathered_tokens(call, data[index])
    elif any(isinstance(f, Batch | Grid) for f in data[index]):
        call.decline(RefusalCode.WINDOW_PARTITION, "positions of the grid or batch are picked by index")
    if any(map(has_tokens, call.axes(1))) and any(map(has_tokens, data)):
        call.decline(RefusalCode.NO_RULE, "tokens are looked up by tokens")
    return [Label((*data[:index], *inner, *data[index + 1 :]), is_pooled(call))]


def _gathered_tokens(call: Call, axis: Axis) -> tuple[Axis, ...]:
    """Axes that replace a token axis when a constant index picks from it."""
    if sole_tokens(axis) is None:
        call.decline(RefusalCode.TOKEN_AXIS_SPLIT, "an index picks from tokens merged with another axis")
    index = call.node.inputs[1]
    if index is None or index.const_value is None:
        call.decline(RefusalCode.RUNTIME_TOKEN_GATHER, "a token is picked by an index computed at run time")
    size = axis_size(axis)
    picked = tuple(i % size for i in call.ints(1))
    if len(picked) == size > 1 and sorted(picked) == list(range(size)) != list(picked):
        call.decline(RefusalCode.POSITION_BOUND, "a constant index puts all tokens in another order")
    for position in picked:
        if not _stays(call, axis, position):
            call.decline(
                RefusalCode.REMOVABLE_TOKEN_GATHERED,
                f"token {position} is picked by a constant index, but may be removed",
            )
    moved = tuple(_new_position(call, axis, position) for position in picked)
    call.literal(1, moved)
    return tuple(plain_axis(dim) for dim in call.shape(1))


def _stays(call: Call, axis: Axis, position: int) -> bool:
    return call.resize.stays(_one_token(axis, position))


def _one_token(axis: Axis, position: int) -> Segment:
    """The token at a position of an axis, as it stands in the stream."""
    tokens = sole_tokens(axis)
    at, position = 0, _in_order(tokens, position)
    for segment in tokens.segments if tokens else ():
        if position < at + segment.size:
            start = segment.start + position - at
            return Segment(start, start + 1, segment.fresh)
        at += segment.size
    return Segment(0, 1)


def _in_order(tokens: Tokens | None, position: int) -> int:
    return tokens.size - 1 - position if tokens is not None and tokens.flipped else position


def _new_position(call: Call, axis: Axis, position: int) -> int:
    """Position of a token that stays, after the change of length."""
    tokens = sole_tokens(axis)
    new_size = call.resize.factor(tokens) if tokens is not None else 0
    at, new_at, wanted = 0, 0, _in_order(tokens, position)
    for segment in tokens.segments if tokens else ():
        if wanted < at + segment.size:
            inner = wanted - at
            if not segment.fresh:
                inner = call.resize.position(segment.start + inner) - call.resize.position(segment.start)
            new = new_at + inner
            return new_size - 1 - new if tokens is not None and tokens.flipped else new
        at += segment.size
        new_at += call.resize.segment(segment)
    return position


def gather_elements(call: Call) -> list[Label]:
    """Tokens may sit on any axis but the gathered one; the index is taken along."""
    data, index = call.axes(0), call.axes(1)
    axis = call.attr("axis", 0) % len(data)
    if has_tokens(data[axis]):
        call.decline(RefusalCode.RUNTIME_TOKEN_GATHER, "tokens are picked element by element")
    lead = broadcast(call, {0: data[:axis], 1: index[:axis]}, tail=len(data) - axis) if axis else ()
    rest = broadcast(call, {0: data[axis + 1 :], 1: index[axis + 1 :]}) if axis + 1 < len(data) else ()
    return [Label((*lead, index[axis], *rest), is_pooled(call))]


def gather_nd(call: Call) -> list[Label]:
    """Tokens may sit on any axis but the gathered ones; those of the index replace them."""
    data, index = call.axes(0), call.axes(1)
    lead = call.attr("batch_dims", 0)
    depth = call.shape(1)[-1]
    if any(has_tokens(axis) or has_grid(axis) for axis in data[lead : lead + depth]):
        call.decline(RefusalCode.RUNTIME_TOKEN_GATHER, "tokens are picked by an index computed at run time")
    if any(map(has_tokens, index)) and any(map(has_tokens, data)):
        call.decline(RefusalCode.NO_RULE, "tokens are looked up by tokens")
    first = broadcast(call, {0: data[:lead], 1: index[:lead]}, tail=len(data) - lead) if lead else ()
    return [Label((*first, *index[lead:-1], *data[lead + depth :]), is_pooled(call))]


def concat(call: Call) -> list[Label]:
    """Along tokens: segments join, other operands are fresh tokens. Along another axis: like a broadcast."""
    operands = {i: call.axes(i) for i in range(len(call.node.inputs))}
    axis = call.attr("axis", 0) % len(operands[0])
    rank = len(operands[0])
    others = [
        broadcast(call, {i: (axes[p],) for i, axes in operands.items()}, tail=rank - p - 1) if p != axis else ((),)
        for p in range(rank)
    ]
    along = [axes[axis] for axes in operands.values()]
    if any(has_grid(a) for a in along):
        call.decline(RefusalCode.WINDOW_PARTITION, "parts of the patch grid are concatenated")
    joined = _join(call, along) if any(map(has_tokens, along)) else plain_axis(sum(map(axis_size, along)))
    return [Label(tuple(joined if p == axis else others[p][0] for p in range(rank)), is_pooled(call))]


def _join(call: Call, parts: list[Axis]) -> Axis:
    segments: list[Segment] = []
    fresh = 0
    turned = _direction(call, parts)
    for part in reversed(parts) if turned else parts:
        tokens = sole_tokens(part)
        if tokens is not None:
            segments += tokens.segments
        elif has_tokens(part):
            call.decline(RefusalCode.TOKEN_AXIS_SPLIT, "tokens merged with another axis are concatenated")
        else:
            segments.append(Segment(fresh, fresh + axis_size(part), fresh=True))
            fresh += axis_size(part)
    return (Tokens(merge_segments(tuple(segments)), flipped=turned),)


def _direction(call: Call, parts: list[Axis]) -> bool:
    """Whether the tokens of all parts run from last to first."""
    found = {tokens.flipped for part in parts if (tokens := sole_tokens(part)) is not None}
    if len(found) > 1:
        call.decline(RefusalCode.POSITION_BOUND, "tokens from first to last are joined with tokens from last to first")
    return found == {True}
