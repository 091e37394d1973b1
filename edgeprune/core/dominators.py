"""Dominators among the values that carry tokens: what every path from the source must pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Item = TypeVar("Item")


class Dominators(Generic[Item]):
    """The dominator tree of a directed acyclic graph, built in topological order.

    Args:
        predecessors: for each item, in topological order, the items it depends on; roots depend on nothing.
    """

    def __init__(self, predecessors: Mapping[Item, Sequence[Item]]) -> None:
        self._parent: dict[Item, Item | None] = {}
        self._depth: dict[Item, int] = {}
        for item, before in predecessors.items():
            parent = self.common(before) if before else None
            self._parent[item] = parent
            self._depth[item] = 0 if parent is None else self._depth[parent] + 1

    def common(self, items: Iterable[Item]) -> Item | None:
        """The nearest item that dominates all of `items` (an item dominates itself)."""
        rest = iter(items)
        result: Item | None = next(rest, None)
        for item in rest:
            result = self._meet(result, item)
        return result

    def chain(self, item: Item | None) -> list[Item]:
        """The dominators of an item, from the root to the item itself."""
        out: list[Item] = []
        while item is not None:
            out.append(item)
            item = self._parent[item]
        return out[::-1]

    def _meet(self, a: Item | None, b: Item | None) -> Item | None:
        while a is not b and a is not None and b is not None:
            if self._depth[a] >= self._depth[b]:
                a = self._parent[a]
            else:
                b = self._parent[b]
        return a if a is b else None
