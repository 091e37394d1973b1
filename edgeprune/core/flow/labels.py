"""Labels: per axis an ordered list of factors, slow to fast.

A factor is a plain size, the batch, one axis of the patch grid, or the tokens. Tokens are a list of segments, since
real graphs slice the prefix off, rotate the patches alone and concatenate again, or add a class token late:

    [B, T, D]              (Batch(2),), (Tokens((Segment(0, 197),)),), (192,)
    [B, T, 3*H*Dh]         ..., (576,)                       split by a Reshape into (3,), (3,), (64,)
    [T*B, D]               (Tokens(...), Batch(2)), (192,)
    patches of 5 + 196     (Tokens((Segment(5, 201),)),)
    from last to first     (Tokens((Segment(0, 197),), flipped=True),)      the backward branch of a scan
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens `start` to `stop` of the stream, or (`fresh`) `stop - start` tokens that the stream does not have."""

    start: int
    stop: int
    fresh: bool = False

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token factor.

    Attributes:
        segments: which tokens, in the order of the stream.
        softmaxed: the numbers along the axis came out of a Softmax over it.
        flipped: the axis holds all of this from its end to its beginning.
    """

    segments: tuple[Segment, ...]
    softmaxed: bool = False
    flipped: bool = False

    @property
    def size(self) -> int:
        """Number of tokens in all segments."""
        return sum(segment.size for segment in self.segments)

    def same_tokens(self, other: Tokens) -> bool:
        """Whether both name the same tokens in the same order."""
        return self.segments == other.segments and self.flipped == other.flipped

    def reversed(self) -> Tokens:
        """The same tokens in the other order."""
        return replace(self, flipped=not self.flipped)


@dataclass(frozen=True, slots=True)
class Batch:
    """The batch factor, tracked only where it is larger than one."""

    size: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Axis number `axis` of the `rank` axes of the patch grid, before the grid is flattened into tokens."""

    size: int
    axis: int
    rank: int = 2


Factor: TypeAlias = int | Tokens | Batch | Grid
Axis: TypeAlias = tuple[Factor, ...]


def factor_size(factor: Factor) -> int:
    """Elements along one factor."""
    return factor if isinstance(factor, int) else factor.size


def axis_size(axis: Axis) -> int:
    """Elements along one axis."""
    return prod(factor_size(factor) for factor in axis)


@dataclass(frozen=True, slots=True)
class Label:
    """What the axes of one value mean.

    Attributes:
        axes: one tuple of factors an axis; an axis of size one may be empty.
        pooled: a statistic over tokens is in it; it must not meet tokens again.
    """

    axes: tuple[Axis, ...]
    pooled: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""
        return tuple(axis_size(axis) for axis in self.axes)

    def axes_of(self, kind: type[Tokens] | type[Batch] | type[Grid]) -> tuple[int, ...]:
        """Indices of the axes that have a factor of this kind."""
        return tuple(i for i, axis in enumerate(self.axes) if any(isinstance(f, kind) for f in axis))

    @property
    def token_axes(self) -> tuple[int, ...]:
        """Indices of the axes that carry tokens."""
        return self.axes_of(Tokens)

    @property
    def moves(self) -> bool:
        """Whether rules must follow this value: it carries tokens, the grid, or a statistic of tokens."""
        return self.pooled or bool(self.token_axes) or bool(self.axes_of(Grid))

    def tokens_at(self, axis: int) -> Tokens | None:
        """The token factor of an axis, if it has one."""
        return next((f for f in self.axes[axis] if isinstance(f, Tokens)), None)

    def with_axis(self, index: int, axis: Axis) -> Label:
        """The same label with one axis replaced."""
        return replace(self, axes=(*self.axes[:index], axis, *self.axes[index + 1 :]))


def plain_axis(size: int) -> Axis:
    """An axis without a meaning that the flow must keep."""
    return () if size == 1 else (size,)


def merge_segments(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Join neighbours that are adjacent in the stream: `[0:1) [1:197)` is `[0:197)`."""
    out: list[Segment] = []
    for segment in segments:
        if out and not segment.fresh and not out[-1].fresh and out[-1].stop == segment.start:
            out[-1] = Segment(out[-1].start, segment.stop)
        else:
            out.append(segment)
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Resize:
    """A change of the stream's length: of `before` tokens, `prefix` in one run and some others stay, `after` in all.

    Attributes:
        before: tokens of the stream.
        after: of them that stay.
        prefix: tokens that are never removed.
        place: where the first of these stands; 0 for a class token in front.
        new_place: where it stands then: `place` less what is removed in front of it.
        open: where these tokens stand is not known yet, so that tokens may be cut in two anywhere.
    """

    before: int
    after: int
    prefix: int
    place: int = 0
    new_place: int = 0
    open: bool = False

    def stays(self, segment: Segment) -> bool:
        """Whether no token of a segment is ever removed."""
        return segment.fresh or (self.place <= segment.start and segment.stop <= self.place + self.prefix)

    def position(self, position: int) -> int:
        """New place of a boundary between tokens: an end of the stream, or an end or inside of the tokens that stay."""
        if position <= self.place:
            return min(position, self.new_place) if position < self.place else self.new_place
        if position <= self.place + self.prefix:
            return position - self.place + self.new_place
        return position - (self.before - self.after)

    def segment(self, segment: Segment) -> int:
        """New size of a segment, which ends where `position` knows a boundary, never among the patches."""
        return segment.size if self.stays(segment) else self.position(segment.stop) - self.position(segment.start)

    def factor(self, factor: Factor) -> int:
        """New size of a factor."""
        return sum(map(self.segment, factor.segments)) if isinstance(factor, Tokens) else factor_size(factor)

    def shape(self, label: Label) -> tuple[int, ...]:
        """New shape of a value with this label."""
        return tuple(prod(self.factor(f) for f in axis) for axis in label.axes)


def sides(patches: int, place: int, keep: int) -> tuple[int, int]:
    """How many of `keep` patch tokens stay in front of a class token and behind it: as many, as far as there are.

    What one side is too short for, the other keeps. An odd one stays behind. With `place` 0 all stand behind.

    Args:
        patches: before the cut.
        place: how many of them stand in front of the class token.
        keep: after the cut.
    """
    left = min(keep // 2, place)
    right = min(keep - left, patches - place)
    return keep - right, right


def split_factors(axes: tuple[Axis, ...], target: tuple[int, ...]) -> tuple[Axis, ...] | Factor:
    """Redistribute the factors of a row-major reshape over the axes of `target`.

    Plain factors are split where needed; batch, grid and tokens are atoms. Two grid axes that meet in order in one
    target axis become the tokens.

    Returns:
        One tuple of factors an axis of `target`, or the atom that the reshape would split.
    """
    queue = _joined(f for axis in axes for f in axis if factor_size(f) != 1)
    out: list[Axis] = []
    for dim in target:
        axis: list[Factor] = []
        room = dim
        while room > 1:
            factor = queue.pop(0)
            size = factor_size(factor)
            if room % size == 0:
                axis.append(factor)
                room //= size
                continue
            if not isinstance(factor, int):
                return factor
            if size % room:
                return _next_atom(queue, factor)
            axis.append(room)
            queue.insert(0, size // room)
            room = 1
        out.append(_flatten_grid(tuple(axis)))
    return tuple(out)


def _joined(factors: Iterable[Factor]) -> list[Factor]:
    """Multiply plain neighbours: what they were before means nothing, and the next reshape may cut them elsewhere."""
    out: list[Factor] = []
    for factor in factors:
        if out and isinstance(factor, int) and isinstance(out[-1], int):
            out[-1] *= factor
        else:
            out.append(factor)
    return out


def _next_atom(queue: list[Factor], factor: int) -> Factor:
    """The atom that stands behind a plain factor which does not divide: it is the one that gets split."""
    return next((f for f in queue if not isinstance(f, int)), factor)


def _flatten_grid(axis: Axis) -> Axis:
    """Turn all axes of the grid, in order in one axis, into tokens."""
    out: list[Factor] = []
    for factor in axis:
        out.append(factor)
        if isinstance(factor, Grid):
            run = out[-factor.rank :]
            if [getattr(f, "axis", None) for f in run] == list(range(factor.rank)):
                out[-factor.rank :] = [Tokens((Segment(0, prod(map(factor_size, run))),))]
    return tuple(out)
