"""Runs of h_t = a_t * h_(t-1) + b_t that a tracer wrote one token after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

# What a ViT or a gated network writes in a row by chance is two or three long.
SHORTEST = 4
_PASSES_ON = {"Cast", "Identity"}
_NESTED = 3  # products within a product; torch.addcmul writes its factor of one there


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """One step.

    Attributes:
        add: h_t.
        muls: a_t * h_(t-1), the outermost product first; one alone but where a factor is written apart.
        before: the operand of the innermost that is the state.
    """

    add: ir.Node
    muls: tuple[ir.Node, ...]
    before: ir.Value

    @property
    def state(self) -> ir.Value:
        """h_t."""
        return self.add.outputs[0]

    @property
    def decay(self) -> tuple[ir.Value, ...]:
        """The factors of a_t."""
        inner = [*(mul.outputs[0] for mul in self.muls[1:]), self.before]
        return tuple(_other(mul, value) for mul, value in zip(self.muls, inner, strict=True))

    @property
    def added(self) -> ir.Value:
        """b_t."""
        return _other(self.add, self.muls[0].outputs[0])


def _other(node: ir.Node, value: ir.Value) -> ir.Value:
    first, second = node.inputs
    assert first is not None
    assert second is not None
    return second if first is value else first


def find_chains(nodes: Iterator[ir.Node]) -> list[list[Link]]:
    """The longest runs, from their second step on: the first one has no state before it that was computed."""
    depth: dict[ir.Node, int] = {}
    link: dict[ir.Node, Link] = {}
    for node in nodes:
        if node.op_type != "Add":
            continue
        depth[node] = 1
        for found in links(node):
            made = origin(found.before).producer()
            if made in depth and made is not node and depth[made] >= depth[node]:
                depth[node], link[node] = depth[made] + 1, found
    return _longest(depth, link)


def _longest(depth: dict[ir.Node, int], link: dict[ir.Node, Link]) -> list[list[Link]]:
    chains, taken = [], set()
    for node in sorted(link, key=lambda n: -depth[n]):
        run: list[Link] = []
        step: ir.Node | None = node
        while step in link and step not in taken:
            taken.add(step)
            run.append(link[step])
            step = origin(link[step].before).producer()
        if len(run) + 1 >= SHORTEST:
            chains.append(run[::-1])
    order = {node: i for i, node in enumerate(link)}
    return sorted(chains, key=lambda run: order[run[0].add])


def links(add: ir.Node) -> Iterator[Link]:
    """Every way to read an Add as a step: which operand is the product, and which of its factors is the state."""
    stack: list[tuple[ir.Value, ...]] = []
    if add.inputs[0] is not add.inputs[1]:
        stack += [(value,) for value in add.inputs if value is not None]
    while stack:
        path = stack.pop(0)
        mul = path[-1].producer()
        if mul is None or mul.op_type != "Mul" or mul.inputs[0] is mul.inputs[1]:
            continue
        muls = tuple(made for value in path if (made := value.producer()) is not None)
        for value in mul.inputs:
            if value is not None:
                yield Link(add, muls, value)
                stack += [(*path, value)] if len(path) < _NESTED else []


def origin(value: ir.Value) -> ir.Value:
    """Above casts."""
    node = value.producer()
    while node is not None and node.op_type in _PASSES_ON and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value
