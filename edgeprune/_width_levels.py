"""How many units a width may keep so that what is cut is faster: whole tiles, and heads that fused attention takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.costs import node_macs

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.widths.groups import WidthGroup

# Tiles of matrix products are 64 or 128 wide; small widths are laid out in eights.
_TILE, _EIGHT = 64, 8
# Fused attention takes head sizes of 16 to 256 in eights, and is lost with a single head.
_SMALLEST_HEAD = 16
_FEWEST_HEADS = 2
# An MLP keeps at least this part of its channels; the order of what goes is not made beyond.
_DEEPEST = 8


def step_of(group: WidthGroup) -> int:
    """Kept counts are multiples of this."""
    if group.kind == "heads":
        return 1
    if group.kind == "head-size":
        return _EIGHT if group.size > _EIGHT else 1
    return _TILE if group.size >= 2 * _TILE else _EIGHT if group.size >= 2 * _EIGHT else 1


def fewest_of(group: WidthGroup) -> int:
    """No fewer units are kept."""
    if group.kind == "heads":
        return min(_FEWEST_HEADS, group.size)
    if group.kind == "head-size":
        return min(_SMALLEST_HEAD, group.size)
    step = step_of(group)
    return -(-group.size // _DEEPEST // step) * step


def levels_of(group: WidthGroup, share: float = 0.0) -> list[int]:
    """Counts that a width may keep, ascending, down to half of `share`, and all of it."""
    step, low = step_of(group), max(fewest_of(group), share * group.size / 2)
    found = [keep for keep in range(step, group.size, step) if keep >= low]
    return [*found, group.size]


def macs_of_unit(graph: ir.Model, group: WidthGroup) -> float:
    """What one unit of a group costs: MACs of the products that have it, as they stand in a graph, a share each."""
    names = {str(linear.node.outputs[0].name) for linear in (*group.producers, group.consumer)}
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
