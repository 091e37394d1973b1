"""How many units a width may keep so that what is cut is faster: whole tiles, and heads that fused attention takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.costs import node_macs
from edgeprune.core.widths.groups import Sublayer
from edgeprune_targets.width_alignment import WidthAlignment, width_alignment

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.widths.groups import WidthGroup

# An MLP keeps at least this part of its channels; the order of what goes is not made beyond.
_DEEPEST = 8


def step_of(group: WidthGroup, alignment: WidthAlignment | None = None) -> int:
    """Kept counts are multiples of this."""
    at = alignment or width_alignment()
    if group.kind == "heads":
        return 1
    if group.kind == "head-size":
        return at.head_size_step if group.size > at.head_size_step else 1
    return next((step for step in (at.mlp_step, at.small_step) if group.size >= 2 * step), 1)


def fewest_of(group: WidthGroup, alignment: WidthAlignment | None = None) -> int:
    """No fewer units are kept."""
    at = alignment or width_alignment()
    if group.kind == "heads":
        return min(at.fewest_heads, group.size)
    if group.kind == "head-size":
        return min(at.smallest_head_size, group.size)
    step = step_of(group, at)
    return -(-group.size // _DEEPEST // step) * step


def levels_of(group: WidthGroup | Sublayer, share: float = 0.0, alignment: WidthAlignment | None = None) -> list[int]:
    """Counts that a width may keep, ascending, down to half of `share`, and all of it."""
    if isinstance(group, Sublayer):
        return [0, 1]
    at = alignment or width_alignment()
    step, low = step_of(group, at), max(fewest_of(group, at), share * group.size / 2)
    found = [keep for keep in range(step, group.size, step) if keep >= low]
    return [*found, group.size]


def macs_of_unit(graph: ir.Model, group: WidthGroup | Sublayer) -> float:
    """What one unit of a group costs: MACs of the products that have it, as they stand in a graph, a share each."""
    if isinstance(group, Sublayer):
        names = {str(value.name) for node in group.nodes for value in node.outputs}
    else:
        names = {str(linear.node.outputs[0].name) for linear in (*group.producers, *group.beside, group.consumer)}
        if group.layout is not None:
            names |= {str(value.name) for value in _products(group)}
    return sum(node_macs(node) for node in graph.graph if str(node.outputs[0].name) in names) / group.size


def _products(group: WidthGroup) -> list[ir.Value]:
    """Results of the two products of an attention: logits, and weighted values."""
    assert group.layout is not None
    logits = group.layout.product.outputs[0]
    weighed = [v for v in group.values if (node := v.producer()) is not None and node.op_type == "MatMul"]
    made = {linear.node.outputs[0] for linear in group.producers}
    return [logits, *[value for value in weighed if value not in made]]
