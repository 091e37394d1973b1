"""Rules of widths for operators that move values: transpose, reshape, slice, split, gather, concatenate, expand."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.widths.units import aligned, reshaped, squashed, varies

if TYPE_CHECKING:
    from edgeprune.core.widths.call import WidthCall
    from edgeprune.core.widths.units import Kept, Units


def transpose(call: WidthCall) -> list[Units | None]:
    """Permute the axes."""
    units = call.data()
    order = call.attr_ints("perm") or tuple(reversed(range(units.ndim)))
    return [units.transpose(order)]


def reshape(call: WidthCall) -> list[Units | None]:
    """Redistribute the axes; the target names the width and is written anew."""
    out = reshaped(call.data(), call.shape(0), call.out_shape())
    shape = call.out_shape()
    call.literal(1, lambda kept: call.new_shape(out, shape, kept))
    return [out]


def flatten(call: WidthCall) -> list[Units | None]:
    """A reshape to a matrix, without a literal."""
    return [reshaped(call.data(), call.shape(0), call.out_shape())]


def squeeze(call: WidthCall) -> list[Units | None]:
    """Drop axes of size one."""
    return [call.data().reshape(_with_axes_of(call))]


def unsqueeze(call: WidthCall) -> list[Units | None]:
    """Insert axes of size one."""
    return [call.data().reshape(_with_axes_of(call))]


def _with_axes_of(call: WidthCall) -> list[int]:
    """The units' shape behind a Squeeze or Unsqueeze: axes of size one go or come, the others stay in order."""
    sizes = [size for size, dim in zip(call.data().shape, call.shape(0), strict=True) if dim != 1]
    rest = iter(sizes)
    return [next(rest) if dim != 1 else 1 for dim in call.out_shape()]


def slice_(call: WidthCall) -> list[Units | None]:
    """A part along any axis; along the width its ends are counted anew."""
    units, shape = call.data(), call.shape(0)
    starts, ends = call.ints(1), call.ints(2)
    axes = [a % len(shape) for a in (call.ints(3) if call.has(3) else range(len(starts)))]
    steps = call.ints(4) if call.has(4) else (1,) * len(starts)
    out, spans = units, {}
    for i, axis in enumerate(axes):
        start, stop, step = slice(starts[i], ends[i], steps[i]).indices(shape[axis])
        if not varies(units, axis):
            continue
        if step != 1 and not call.tracing:
            call.decline("the width is sliced with a step")
        out = out.take(range(start, stop, step), axis=axis)
        spans[i] = (axis, start, stop)
    if spans:
        call.literal(1, lambda kept: _ends(call, units, kept, list(starts), spans, 0))
        call.literal(2, lambda kept: _ends(call, units, kept, list(ends), spans, 1))
    return [squashed(out)]


def _ends(
    call: WidthCall, units: Units, kept: Kept, old: list[int], spans: dict[int, tuple[int, int, int]], which: int
) -> list[int]:
    """The starts or ends of a slice when only some units stay."""
    masks = call.box(units, call.shape(0), kept)
    for i, (axis, start, stop) in spans.items():
        old[i] = int(masks[axis][: (start, stop)[which]].sum())
    return old


def split(call: WidthCall) -> list[Units | None]:
    """Parts side by side; along the width their sizes are counted anew."""
    units, shape = call.data(), call.shape(0)
    axis = call.attr("axis", 0) % len(shape)
    if not varies(units, axis):
        return [units] * len(call.node.outputs)
    stops = [0, *accumulate(call.out_shape(i)[axis] for i in range(len(call.node.outputs)))]
    spans = list(pairwise(stops))
    if call.has(1):
        call.literal(1, lambda kept: [int(call.box(units, shape, kept)[axis][a:b].sum()) for a, b in spans])
    return [squashed(units.take(range(a, b), axis=axis)) for a, b in spans]


def gather(call: WidthCall) -> list[Units | None]:
    """Parts picked by a constant index along another axis, or whole rows of it."""
    units = call.units[0]
    index = call.constant(1)
    if units is None or index is None:
        call.decline("an index along the width is computed at run time")
    axis = call.attr("axis", 0) % units.ndim
    if varies(units, axis) and not call.tracing:
        call.decline("units of the width are picked one by one")
    picked = units.take(index if varies(units, axis) else np.zeros(index.shape, int), axis=axis)
    return [squashed(picked)]


def concat(call: WidthCall) -> list[Units | None]:
    """Along another axis units that meet are joined; along the width they stand side by side."""
    count, rank = len(call.node.inputs), len(call.out_shape())
    axis = call.attr("axis", 0) % rank
    known = [call.units[i] for i in range(count)]
    if not any(units is not None and varies(units, axis) for units in known):
        shapes = [tuple(1 if a == axis else d for a, d in enumerate(call.shape(i))) for i in range(count)]
        return [call.meet({i: (known[i], shapes[i]) for i in range(count)}, rank)]
    if any(units is None for units in known):
        call.decline("the width is concatenated with something else")
    present = [units for units in known if units is not None]
    common = [max(u.shape[a] for u in present) for a in range(rank)]
    parts = [
        np.broadcast_to(u, [call.shape(i)[axis] if a == axis else common[a] for a in range(rank)])
        for i, u in enumerate(present)
    ]
    return [squashed(np.concatenate(parts, axis=axis))]


def expand(call: WidthCall) -> list[Units | None]:
    """Broadcast against a shape, which may name the width."""
    shape = call.out_shape()
    out = aligned(call.data(), len(shape))
    given = len(call.ints(1))
    call.literal(1, lambda kept: call.new_shape(out, shape, kept)[len(shape) - given :])
    return [out]


def tile(call: WidthCall) -> list[Units | None]:
    """Repeat along any axis; repeated units go together."""
    times = call.ints(1)
    units = call.data()
    return [np.tile(units, [n if varies(units, axis) else 1 for axis, n in enumerate(times)])]
