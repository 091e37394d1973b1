"""Dominators against the definition: what every path from a root must pass."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeprune.core.dominators import Dominators


@st.composite
def graphs(draw: st.DrawFn) -> dict[int, list[int]]:
    size = draw(st.integers(1, 9))
    return {i: draw(st.lists(st.integers(0, i - 1), max_size=3, unique=True)) if i else [] for i in range(size)}


def paths(before: dict[int, list[int]], item: int) -> list[list[int]]:
    if not before[item]:
        return [[item]]
    return [[*path, item] for parent in before[item] for path in paths(before, parent)]


@given(graphs())
def test_a_chain_is_what_all_paths_share(before: dict[int, list[int]]) -> None:
    tree = Dominators(before)
    for item in before:
        shared = set.intersection(*map(set, paths(before, item)))
        assert tree.chain(item) == sorted(shared)


@given(graphs(), st.data())
def test_the_common_dominator_is_the_last_that_all_share(before: dict[int, list[int]], data: st.DataObject) -> None:
    tree = Dominators(before)
    items = data.draw(st.lists(st.sampled_from(sorted(before)), min_size=1, max_size=3))
    shared = set.intersection(*(set(tree.chain(item)) for item in items))
    assert tree.common(items) == max(shared, default=None)


def test_nothing_has_no_dominator() -> None:
    assert Dominators({}).common([]) is None
    assert Dominators({}).chain(None) == []
