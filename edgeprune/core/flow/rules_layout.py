"""Rules of operators that move whole values: transpose, reshape, squeeze, expand, tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.flow.labels import Batch, Grid, Label, axis_size, plain_axis, split_factors
from edgeprune.core.flow.rules_scan import refuse_grid_convolution
from edgeprune.core.refusals import RefusalCode

if TYPE_CHECKING:
    from edgeprune.core.flow.call import Call


def transpose(call: Call) -> list[Label]:
    """Permute the axes."""
    label = call.label(0)
    order = call.attr_ints("perm") or tuple(reversed(range(len(label.axes))))
    return [Label(tuple(label.axes[i] for i in order), label.pooled)]


def reshape(call: Call) -> list[Label]:
    """Redistribute the factors; the target names the old length and is written anew."""
    out = _redistribute(call, call.out_shape())
    new = call.resized(out)
    if new != call.out_shape():
        call.literal(1, new)
    return [out]


def flatten(call: Call) -> list[Label]:
    """A reshape to a matrix, without a literal."""
    return [_redistribute(call, call.out_shape())]


def _redistribute(call: Call, target: tuple[int, ...]) -> Label:
    label = call.label(0)
    axes = split_factors(label.axes, target)
    if isinstance(axes, tuple):
        return Label(axes, label.pooled)
    if isinstance(axes, Grid):
        call.decline(
            RefusalCode.WINDOW_PARTITION, f"the patch grid is split into windows by a reshape to {list(target)}"
        )
    if isinstance(axes, Batch):
        call.decline(RefusalCode.NO_RULE, f"the batch is split by a reshape to {list(target)}")
    refuse_grid_convolution(call.node)
    return call.decline(RefusalCode.TOKEN_AXIS_SPLIT, f"the token axis is split by a reshape to {list(target)}")


def squeeze(call: Call) -> list[Label]:
    """Drop axes of size one."""
    label = call.label(0)
    wanted = call.axes_argument(1)
    rank = len(label.axes)
    gone = {i % rank for i in wanted} if wanted else {i for i, a in enumerate(label.axes) if axis_size(a) == 1}
    return [Label(tuple(a for i, a in enumerate(label.axes) if i not in gone), label.pooled)]


def unsqueeze(call: Call) -> list[Label]:
    """Insert axes of size one."""
    label = call.label(0)
    wanted = call.axes_argument(1) or ()
    rank = len(label.axes) + len(wanted)
    new = {i % rank for i in wanted}
    rest = iter(label.axes)
    return [Label(tuple(() if i in new else next(rest) for i in range(rank)), label.pooled)]


def expand(call: Call) -> list[Label]:
    """Broadcast against a shape; the shape may name the old length."""
    label = call.label(0)
    target = call.ints(1)
    out_shape = call.out_shape()
    lead = len(out_shape) - len(label.axes)
    axes = tuple(
        plain_axis(size) if i < lead or axis_size(label.axes[i - lead]) != size else label.axes[i - lead]
        for i, size in enumerate(out_shape)
    )
    out = Label(axes, label.pooled)
    if call.resized(out) != out_shape:
        new = call.resized(out)[len(out_shape) - len(target) :]
        call.literal(1, tuple(n if t != 1 else 1 for n, t in zip(new, target, strict=True)))
    return [out]


def tile(call: Call) -> list[Label]:
    """Repeat plain axes; tokens may not be repeated."""
    label = call.label(0)
    axes = []
    for axis, times in zip(label.axes, call.ints(1), strict=True):
        if times != 1 and any(not isinstance(f, int) for f in axis):
            call.decline(RefusalCode.POSITION_BOUND, "the tokens, grid or batch are repeated")
        axes.append(axis if times == 1 else plain_axis(axis_size(axis) * times))
    return [Label(tuple(axes), label.pooled)]


def restored(call: Call) -> list[Label]:
    """All tokens are back behind this node: nothing moves any more."""
    return [Label(tuple(plain_axis(dim) for dim in call.out_shape()))]
