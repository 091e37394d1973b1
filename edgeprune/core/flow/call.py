"""One node as a rule sees it: its labels, shapes and constants in; labels and edits out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import numpy as np

from edgeprune.core.flow.labels import Axis, Batch, Grid, Label, Resize, Tokens, axis_size, plain_axis
from edgeprune.core.graph import constant_of, name_of, static_shape
from edgeprune.core.refusals import Refusal, RefusalCode

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """Input `index` of the node is a constant that names the old length: give the node its own copy, with `values`."""

    index: int
    values: np.ndarray


@dataclass(frozen=True, slots=True)
class Companion:
    """Input `index` of the node is aligned with the tokens along `axis` but has the old length: take it with them.

    Attributes:
        index: which input of the node.
        axis: axis of that input, from the right (negative), so that it survives a change of rank.
        tokens: the tokens that it is aligned with.
        batch_axis: axis of the result that holds the batch, from the right; None where the batch is one.
        batch: factors of that axis: heads may be merged with the batch.
    """

    index: int
    axis: int
    tokens: Tokens
    batch_axis: int | None
    batch: Axis = ()


Edit: TypeAlias = Literal | Companion


class Declined(Exception):  # noqa: N818 - control flow between a rule and the flow, never shown
    """A rule declines to carry tokens through a node."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


@dataclass(slots=True)
class Call:
    """A node with the labels of its inputs, and what its rule says.

    Attributes:
        node: the node.
        labels: one an input; None where nothing moves.
        resize: the change of length.
        late: whether tokens may be missing here even if `resize` removes none.
        edits: what must change in the node.
        uncut: why no token may be missing here.
    """

    node: ir.Node
    labels: tuple[Label | None, ...]
    resize: Resize
    late: bool = False
    edits: list[Edit] = field(default_factory=list)
    uncut: Refusal | None = None

    def decline(self, code: RefusalCode, reason: str) -> NoReturn:
        """Refuse this node.

        Raises:
            Declined: always.
        """
        raise Declined(self._refusal(code, reason))

    def needs_all(self, code: RefusalCode, reason: str) -> None:
        """Let the tokens through as long as none is missing; refuse this node behind a cut.

        Raises:
            Declined: if tokens may be missing.
        """
        if self.late or self.resize.before != self.resize.after:
            self.decline(code, reason)
        self.uncut = self._refusal(code, reason)

    def _refusal(self, code: RefusalCode, reason: str) -> Refusal:
        return Refusal(code, f"{reason} ({self.node.op_type} node)", (name_of(self.node),))

    def shape(self, index: int) -> tuple[int, ...]:
        """Static shape of an input."""
        value = self.node.inputs[index]
        shape = static_shape(value) if value is not None else None
        if shape is None:
            self.decline(RefusalCode.UNKNOWN_SHAPE, "an input has no static shape")
        return shape

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """Static shape of an output, before any edit."""
        shape = static_shape(self.node.outputs[index])
        if shape is None:
            self.decline(RefusalCode.UNKNOWN_SHAPE, "the output has no static shape")
        return shape

    def has(self, index: int) -> bool:
        """Whether the optional input is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def axes(self, index: int) -> tuple[Axis, ...]:
        """Axes of an input; without a label all are plain."""
        label = self.labels[index]
        return label.axes if label is not None else tuple(plain_axis(dim) for dim in self.shape(index))

    def label(self, index: int = 0) -> Label:
        """Label of an input; without one, all axes are plain."""
        return self.labels[index] or Label(self.axes(index))

    def ints(self, index: int) -> tuple[int, ...]:
        """A constant integer input."""
        value = self.node.inputs[index]
        array = constant_of(value) if value is not None else None
        if array is None:
            self.decline(RefusalCode.UNKNOWN_SHAPE, "a shape argument is computed at run time")
        return tuple(int(i) for i in np.asarray(array).reshape(-1))

    def attr(self, name: str, default: int) -> int:
        """An integer attribute."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_int()

    def attr_ints(self, name: str) -> tuple[int, ...] | None:
        """A list attribute, or None."""
        attribute = self.node.attributes.get(name)
        return None if attribute is None else tuple(attribute.as_ints())

    def axes_argument(self, index: int) -> tuple[int, ...] | None:
        """The `axes` of Squeeze, Reduce and others: an attribute in old opsets, an input in new ones."""
        return self.ints(index) if self.has(index) else self.attr_ints("axes")

    def literal(self, index: int, values: tuple[int, ...]) -> None:
        """Ask for a new constant at an input, of the same type and rank, if it differs from what is there."""
        if self.ints(index) == values:
            return
        old = np.asarray(constant_of(self.node.inputs[index]))
        new = np.asarray(values, dtype=old.dtype)
        self.edits.append(Literal(index, new.reshape(old.shape) if new.size == old.size else new))

    def resized(self, label: Label) -> tuple[int, ...]:
        """Shape of a value with this label after the change of length."""
        return self.resize.shape(label)

    def boundary(self, position: int, axis: Axis) -> None:
        """Check that a cut through the tokens at `position`, in the stream's order, never runs through the patches."""
        tokens = sole_tokens(axis)
        at = 0
        for segment in tokens.segments if tokens else ():
            if at < position < at + segment.size:
                coordinate = segment.start + position - at
                first, kept = self.resize.place, range(self.resize.prefix + 1)
                if not self.resize.open and (segment.fresh or coordinate - first not in kept):
                    self.decline(RefusalCode.SLICE_INSIDE_PATCHES, f"the tokens are cut in two at {position}")
            at += segment.size


def sole_tokens(axis: Axis) -> Tokens | None:
    """The tokens of an axis that holds nothing else, else None."""
    return axis[0] if len(axis) == 1 and isinstance(axis[0], Tokens) else None


def has_tokens(axis: Axis) -> bool:
    """Whether the axis holds tokens, alone or with other factors."""
    return any(isinstance(f, Tokens) for f in axis)


def has_grid(axis: Axis) -> bool:
    """Whether the axis holds a part of the patch grid."""
    return any(isinstance(f, Grid) for f in axis)


def broadcast(call: Call, operands: dict[int, tuple[Axis, ...]], tail: int = 0) -> tuple[Axis, ...]:
    """Align operands from the right, as ONNX broadcasting does, and ask for companions where tokens meet plain axes.

    Args:
        call: the node.
        operands: axes to align, by input index.
        tail: how many axes of the operands stand to the right of `axes` and are aligned elsewhere (MatMul: 2).

    Returns:
        The axes of the result.
    """
    rank = max(len(axes) for axes in operands.values())
    out = tuple(
        _meet(call, [a[p - rank + len(a)] for a in operands.values() if p - rank + len(a) >= 0]) for p in range(rank)
    )
    _refuse_pooled(call, out)
    for index, axes in operands.items():
        for position, axis in enumerate(axes):
            result = out[position + rank - len(axes)]
            if has_tokens(result) and not has_tokens(axis) and axis_size(axis) > 1:
                if has_grid(axis):
                    call.decline(RefusalCode.POSITION_BOUND, "the patch grid is read in another order than the tokens'")
                _ask_companion(call, index, position - len(axes) - tail, result)
    return out


def _ask_companion(call: Call, index: int, axis: int, result: Axis) -> None:
    tokens = sole_tokens(result)
    if tokens is None:
        call.decline(RefusalCode.POSITION_BOUND, "an operand of the old length meets tokens merged with another axis")
    call.edits.append(Companion(index, axis, tokens, *_batch_axis(call)))


def _batch_axis(call: Call) -> tuple[int | None, Axis]:
    """The axis, from the right, that holds the batch, best nothing else, with its factors; None for a batch of one."""
    axes = [
        (i - len(label.axes), axis) for label in call.labels if label is not None for i, axis in enumerate(label.axes)
    ]
    batched = [(position, axis) for position, axis in axes if any(isinstance(f, Batch) for f in axis)]
    return min(batched, key=lambda found: len(found[1]), default=(None, ()))


def _meet(call: Call, axes: list[Axis]) -> Axis:
    """The axis that broadcasting these gives: tokens win over batch and grid, those over plain sizes."""
    carriers = [axis for axis in axes if has_tokens(axis)]
    if not carriers:
        size = max(map(axis_size, axes))
        full = [axis for axis in axes if axis_size(axis) == size]
        return next((a for a in full if any(isinstance(f, Batch | Grid) for f in a)), full[0])
    first = carriers[0]
    for other in carriers[1:]:
        if not same_meaning(first, other):
            _refuse_differing(call, first, other)
    if any(isinstance(f, Tokens) and f.softmaxed for axis in carriers for f in axis):
        return tuple(replace(f, softmaxed=True) if isinstance(f, Tokens) else f for f in first)
    return first


def _refuse_differing(call: Call, first: Axis, other: Axis) -> NoReturn:
    turned = tuple(f.reversed() if isinstance(f, Tokens) else f for f in other)
    if same_meaning(first, turned):
        call.decline(RefusalCode.POSITION_BOUND, "tokens from first to last meet tokens from last to first")
    call.decline(RefusalCode.SEGMENTS_DIFFER, "two operands carry different tokens along one axis")


def same_meaning(a: Axis, b: Axis) -> bool:
    """Whether two axes carry the same factors, whatever was softmaxed."""
    return len(a) == len(b) and all(
        x.same_tokens(y) if isinstance(x, Tokens) and isinstance(y, Tokens) else x == y
        for x, y in zip(a, b, strict=True)
    )


def _refuse_pooled(call: Call, out: tuple[Axis, ...]) -> None:
    if any(map(has_tokens, out)) and any(label is not None and label.pooled for label in call.labels):
        call.decline(RefusalCode.POOLED_REENTERS, "a statistic over all tokens meets the tokens again")


def is_pooled(call: Call) -> bool:
    """Whether a statistic of tokens is among the inputs."""
    return any(label is not None and label.pooled for label in call.labels)
