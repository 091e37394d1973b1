"""Divide what one mix has to save among the items of each axis: sublayers first, then widths of what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.errors import PlanError
from edgeprune.core.knapsack import Level, allocate
from edgeprune.core.plan import SUBLAYERS
from edgeprune.core.widths.groups import Sublayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.compiler.structuring.mixes import Mix
    from edgeprune.compiler.structuring.pricing import Base, Price
    from edgeprune.compiler.structuring.structure import Item, Structure


def divided(structure: Structure, base: Base, price: Price, mix: Mix, saving: float) -> dict[str, int]:
    """How much stays of each item that the mix has a share for.

    Raises:
        PlanError: if the items of an axis cannot save their share.
    """
    keep: dict[str, int] = {}
    if mix.sublayers and saving > 0:
        keep, saved = _allocated(structure, base, price, structure.of(SUBLAYERS), mix.sublayers * saving)
        saving -= saved
    gone = [each for each in structure.widths.sublayers if keep.get(each.name) == 0]
    inside = {node for each in gone for node in each.nodes}
    every = [item for item in structure.of(tuple(mix.widths)) if not _is_inside(item, inside)]
    parts = [([item for item in every if item.kind == kind], share) for kind, share in mix.widths.items()]
    together = [item for items, share in parts if share for item in items]
    for items, share in [(together, 1.0)] if mix.joint else parts:
        if share and saving > 0:
            keep |= _allocated(structure, base, price, items, share * saving)[0]
    return keep


def _allocated(
    structure: Structure, base: Base, price: Price, items: Sequence[Item], saving: float
) -> tuple[dict[str, int], float]:
    """Levels of some items that save so much or more, and what they save.

    Raises:
        PlanError: if they cannot.
    """
    modules = []
    for item in items:
        costs = {n: price.level(structure, base, item, n) for n in structure.levels(item)}
        least = min(costs.values())
        modules.append([Level(n, cost - least, structure.loss(item, n)) for n, cost in costs.items()])
    whole = sum(each[-1].cost for each in modules)
    if whole < saving:
        msg = f"{_kinds(items)} can save {whole / base.price:.1%}, {saving / base.price:.1%} is to be saved"
        raise PlanError(msg, hint="ask for a larger share, or name more --axes")
    made = allocate(modules, whole - saving)
    keep = {item.name: level.keep for item, level in zip(items, made, strict=True)}
    return keep, whole - sum(level.cost for level in made)


def _kinds(items: Sequence[Item]) -> str:
    return " and ".join(dict.fromkeys(item.kind for item in items)) or "what is left"


def _is_inside(item: Item, nodes: set[ir.Node]) -> bool:
    return not isinstance(item, Sublayer) and item.consumer.node in nodes
