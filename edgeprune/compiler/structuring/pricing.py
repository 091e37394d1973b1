"""Prices: what a budget counts, of a whole graph and of one level of one width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgeprune.compiler.structuring.width_levels import macs_of_unit
from edgeprune.core.costs import count_macs, count_params
from edgeprune.core.graph import constant_of
from edgeprune.core.widths.groups import Sublayer
from edgeprune_targets.latency import estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.compiler.structuring.structure import Item, Structure
    from edgeprune.core.plan import Precision
    from edgeprune_targets.target import Target


@dataclass(frozen=True, slots=True)
class Base:
    """The graph whose widths are cut, tokens cut already, and its price."""

    graph: ir.Model
    price: float


class Price(Protocol):
    """What a budget counts."""

    def of(self, graph: ir.Model) -> float:
        """The whole graph."""

    def level(self, structure: Structure, base: Base, item: Item, keep: int) -> float:
        """One item when so much of it stays, up to a constant."""


class Macs:
    """Multiply-accumulates of one run."""

    def of(self, graph: ir.Model) -> float:
        """The whole graph."""
        return count_macs(graph)

    def level(self, structure: Structure, base: Base, item: Item, keep: int) -> float:  # noqa: ARG002
        """In proportion to what stays."""
        return keep * macs_of_unit(base.graph, item)


class Params:
    """Parameters."""

    def of(self, graph: ir.Model) -> float:
        """The whole graph."""
        return count_params(graph)

    def level(self, structure: Structure, base: Base, item: Item, keep: int) -> float:  # noqa: ARG002
        """In proportion to what stays."""
        if isinstance(item, Sublayer):
            own = {v for node in item.nodes for v in node.inputs if v is not None}
            arrays = [array for value in own if (array := constant_of(value)) is not None]
            return float(keep * sum(array.size for array in arrays if array.dtype.kind == "f"))
        rows = sum(len(units) for units in item.columns)
        made = sum(linear.weight.size + rows for linear in item.producers)
        return keep * (made + item.consumer.weight.size) / item.size


class ModelledLatency:
    """Modelled latency as a share of the dense model's, on the target where that is largest.

    Args:
        dense: the model.
        targets: one or more.
        precision: of the matrix products.
        same: all targets have the same milliseconds to keep to, so that the slowest one counts.
    """

    def __init__(self, dense: ir.Model, targets: Sequence[Target], precision: Precision, *, same: bool = False) -> None:
        self.targets, self.precision = tuple(targets), precision
        self.dense_ms = [estimate(dense, target, precision).p50_ms for target in targets]
        self._whole = [max(self.dense_ms)] * len(self.dense_ms) if same else self.dense_ms

    def of(self, graph: ir.Model) -> float:
        """The whole graph."""
        now = [estimate(graph, target, self.precision).p50_ms for target in self.targets]
        return max(ms / whole for ms, whole in zip(now, self._whole, strict=True))

    def level(self, structure: Structure, base: Base, item: Item, keep: int) -> float:
        """By the table of the structure's levels."""
        assert structure.times is not None
        return base.price * structure.times.cost(item, keep)
