"""The flow of widths: carry units from the projections that make them to the weights that contract them."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.flow.call import Declined
from edgeprune.core.graph import consumers, name_of
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.widths.call import Edit, WidthCall
from edgeprune.core.widths.rules import RULES
from edgeprune.core.widths.units import Unions, squashed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import onnx_ir as ir

    from edgeprune.core.widths.units import Units


@dataclass(slots=True)
class WidthFlow:
    """Where the units went.

    Attributes:
        units: every value that has some.
        edits: constants that must follow, in the order of the graph.
        consumers: products with a weight at which the units end.
        refusal: the first node that does not let them through.
    """

    units: dict[ir.Value, Units] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)
    consumers: list[ir.Node] = field(default_factory=list)
    refusal: Refusal | None = None


class Order:
    """The nodes of a graph in topological order, by their position."""

    def __init__(self, nodes: Sequence[ir.Node]) -> None:
        self.nodes = list(nodes)
        self.position = {node: i for i, node in enumerate(self.nodes)}

    def only(self, inside: Collection[ir.Node]) -> Order:
        """The part of it that is of interest."""
        return Order([node for node in self.nodes if node in inside])


def run_widths(order: Order, seeds: Mapping[ir.Value, Units], *, wide: bool = False) -> WidthFlow:
    """Carry the units of `seeds` forward to where weights contract them.

    Run twice: first to find out which units must go together, then with one number for each such set.

    Args:
        order: the graph.
        seeds: units of the values that the flow starts from, counted from zero.
        wide: let units pass products of two computed values, as the heads of an attention do.
    """
    unions = _unions(seeds)
    first = _Run(order, seeds, unions, wide=wide, tracing=True).flow
    if first.refusal is not None:
        return first
    classes = unions.classes()
    resolved = {value: squashed(classes[units]) for value, units in seeds.items()}
    return _Run(order, resolved, unions, wide=wide, tracing=False).flow


def trace(order: Order, seeds: Mapping[ir.Value, Units]) -> WidthFlow:
    """Carry units as far as they get, only to see where they arrive; what they meet need not follow."""
    return _Run(order, seeds, _unions(seeds), wide=True, tracing=True).flow


def _unions(seeds: Mapping[ir.Value, Units]) -> Unions:
    return Unions(1 + max(int(units.max()) for units in seeds.values()))


class _Run:
    """One pass over the nodes that units reach, in their order."""

    def __init__(
        self, order: Order, seeds: Mapping[ir.Value, Units], unions: Unions, *, wide: bool, tracing: bool
    ) -> None:
        self.order, self.unions, self.wide, self.tracing = order, unions, wide, tracing
        self.flow = WidthFlow(units=dict(seeds))
        self._queue: list[int] = []
        self._seen: set[int] = set()
        for value in seeds:
            self._reach(value)
        while self._queue and self.flow.refusal is None:
            self._visit(order.nodes[heappop(self._queue)])

    def _reach(self, value: ir.Value) -> None:
        """Units are on a value now: its users come next."""
        if value.is_graph_output() and not self.tracing:
            reason = "a graph output has the width"
            self.flow.refusal = Refusal(RefusalCode.WIDTH_IN_OUTPUT, reason, (name_of(value),))
        for node in consumers(value):
            position = self.order.position.get(node)
            if position is not None and position not in self._seen:
                self._seen.add(position)
                heappush(self._queue, position)
            elif node.graph is not None and node.graph is not _graph_of(self.order):
                reason = "the width is read inside a subgraph"
                self.flow.refusal = Refusal(RefusalCode.NO_RULE, reason, (name_of(node),))

    def _visit(self, node: ir.Node) -> None:
        units = tuple(self.flow.units.get(v) if v is not None else None for v in node.inputs)
        call = WidthCall(node, units, self.unions, tracing=self.tracing)
        try:
            results = _apply_rule(call, wide=self.wide)
        except Declined as declined:
            self.flow.refusal = declined.refusal
            return
        self.flow.edits += call.edits
        if call.consumes:
            self.flow.consumers.append(node)
        for value, found in zip(node.outputs, results, strict=False):
            if found is not None and np.size(found) > 1:
                self.flow.units[value] = found
                self._reach(value)


def _graph_of(order: Order) -> object:
    return order.nodes[0].graph if order.nodes else None


def _apply_rule(call: WidthCall, *, wide: bool) -> list[Units | None]:
    domain = call.node.domain
    rule = RULES.get(f"{domain}::{call.node.op_type}" if domain else call.node.op_type)
    if rule is None:
        call.decline("no rule carries a width through this operator", RefusalCode.NO_RULE)
    constants = sum(call.constant(i) is not None for i in range(len(call.node.inputs)))
    if not wide and call.node.op_type in {"MatMul", "Softmax"} and not constants:
        call.decline("the width of an attention is no width of an MLP", RefusalCode.NOT_APPLICABLE)
    return rule(call)
