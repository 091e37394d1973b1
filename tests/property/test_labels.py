"""Reshape algebra against numpy: an axis that is labelled tokens, batch or grid holds exactly those."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.core.flow.labels import (
    Axis,
    Batch,
    Factor,
    Grid,
    Label,
    Resize,
    Segment,
    Tokens,
    axis_size,
    factor_size,
    merge_segments,
    split_factors,
)

SIZES = st.integers(1, 6)


@st.composite
def factor_lists(draw: st.DrawFn) -> list[Factor]:
    """Plain sizes with at most one batch and one token factor among them, tokens of up to three segments."""
    factors: list[Factor] = list(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), max_size=4)))
    if draw(st.booleans()):
        factors.insert(draw(st.integers(0, len(factors))), Batch(draw(st.integers(2, 3))))
    size = draw(st.integers(2, 7))
    factors.insert(draw(st.integers(0, len(factors))), Tokens((Segment(0, size),)))
    return factors


@st.composite
def axes_of(draw: st.DrawFn, factors: list[Factor]) -> tuple[Axis, ...]:
    """The factors in order, grouped into axes; some axes are empty."""
    axes: list[list[Factor]] = [[]]
    for factor in factors:
        if draw(st.booleans()):
            axes.append([])
        axes[-1].append(factor)
    return tuple(tuple(axis) for axis in axes)


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[Axis, ...], tuple[int, ...]]:
    """Axes, and a target of the same number of elements: sometimes along the factors, sometimes anyhow."""
    factors = draw(factor_lists())
    axes = draw(axes_of(factors))
    if draw(st.booleans()):
        return axes, tuple(axis_size(axis) for axis in draw(axes_of(factors)))
    rest, target = prod(map(axis_size, axes)), []
    while rest > 1 and len(target) < 5:
        dim = draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0]))
        target.append(dim)
        rest //= dim
    return axes, (*target, rest)


def numbers(axes: tuple[Axis, ...], kind: type) -> np.ndarray:
    """For each element the position along the factor of a kind (0 where there is none)."""
    factors = [factor for axis in axes for factor in axis]
    shape = [factor_size(factor) for factor in factors]
    where = next((i for i, f in enumerate(factors) if isinstance(f, kind)), None)
    if where is None:
        return np.zeros([axis_size(axis) for axis in axes], int)
    line = np.arange(shape[where]).reshape([-1 if i == where else 1 for i in range(len(shape))])
    return np.broadcast_to(line, shape).reshape([axis_size(axis) for axis in axes])


@given(reshapes())
@settings(max_examples=600, deadline=None)
def test_labels_go_where_numpy_takes_the_elements(case: tuple[tuple[Axis, ...], tuple[int, ...]]) -> None:
    axes, target = case
    out = split_factors(axes, target)
    for kind in (Tokens, Batch):
        moved = numbers(axes, kind).reshape(target)
        if isinstance(out, tuple):
            assert tuple(map(axis_size, out)) == target
            np.testing.assert_array_equal(moved, numbers(out, kind))
        else:
            assert not isinstance(out, int) or not any(isinstance(f, Tokens | Batch) for a in axes for f in a)


@given(reshapes())
@settings(max_examples=300, deadline=None)
def test_a_refused_atom_really_is_split(case: tuple[tuple[Axis, ...], tuple[int, ...]]) -> None:
    """No axes of the target hold the refused factor whole: its positions do not come in runs of one axis."""
    axes, target = case
    out = split_factors(axes, target)
    if isinstance(out, tuple):
        return
    moved = numbers(axes, type(out)).reshape(target)
    size = factor_size(out)
    for axis, dim in enumerate(target):
        if dim % size:
            continue
        before = np.moveaxis(moved, axis, -1).reshape(-1, dim)
        for inner in (d for d in range(1, dim // size + 1) if (dim // size) % d == 0):
            whole = np.tile(np.repeat(np.arange(size), inner), dim // size // inner)
            assert not (before == whole).all()


@given(reshapes())
@settings(max_examples=200, deadline=None)
def test_a_reshape_back_gives_the_label_back(case: tuple[tuple[Axis, ...], tuple[int, ...]]) -> None:
    axes, target = case
    out = split_factors(axes, target)
    if not isinstance(out, tuple):
        return
    back = split_factors(out, tuple(map(axis_size, axes)))
    assert isinstance(back, tuple)
    for kind in (Tokens, Batch):
        np.testing.assert_array_equal(numbers(back, kind), numbers(axes, kind))


@given(st.integers(1, 4), st.integers(2, 5), st.integers(2, 5), st.integers(1, 4), st.booleans())
def test_a_flattened_grid_is_the_tokens(channels: int, rows: int, columns: int, batch: int, last: bool) -> None:
    grid: tuple[Axis, ...] = ((Grid(rows, 0),), (Grid(columns, 1),))
    axes = ((batch,), (channels,), *grid) if not last else ((batch,), *grid, (channels,))
    target = (batch, channels, rows * columns) if not last else (batch, rows * columns, channels)
    out = split_factors(axes, target)
    assert isinstance(out, tuple)
    assert out[1 if last else 2] == (Tokens((Segment(0, rows * columns),)),)


@given(st.integers(2, 5), st.integers(2, 5))
def test_a_transposed_grid_is_no_row_of_tokens(rows: int, columns: int) -> None:
    out = split_factors(((Grid(columns, 1),), (Grid(rows, 0),)), (rows * columns,))
    assert isinstance(out, tuple)
    assert not any(isinstance(f, Tokens) for f in out[0])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4), st.booleans()), max_size=6))
def test_merged_segments_name_the_same_tokens(parts: list[tuple[int, int, bool]]) -> None:
    segments = tuple(Segment(start, start + size, fresh) for start, size, fresh in parts)
    merged = merge_segments(segments)
    assert tokens_of(merged) == tokens_of(segments)
    assert merge_segments(merged) == merged
    assert len(merged) <= len(segments)


def tokens_of(segments: tuple[Segment, ...]) -> list[tuple[int, bool]]:
    return [(i, s.fresh) for s in segments for i in range(s.start, s.stop)]


@given(st.integers(0, 4), st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_a_resize_counts_what_an_index_takes(prefix: int, patches: int, keep: int, fresh: bool) -> None:
    keep = min(keep, patches)
    before = prefix + patches
    index = [*range(prefix), *range(before - keep, before)]
    resize = Resize(before, prefix + keep, prefix)
    for segment in (Segment(0, prefix), Segment(prefix, before), Segment(0, before), Segment(prefix // 2, before)):
        assert resize.segment(segment) == len([i for i in index if segment.start <= i < segment.stop])
    assert resize.segment(Segment(0, 3, fresh=True)) == 3
    label = Label(((Tokens((Segment(0, before),), softmaxed=fresh), 3), (5,)))
    assert resize.shape(label) == ((prefix + keep) * 3, 5)
