"""Heads and head size: which columns of the projections are which coordinate of which head, read off by the flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from edgeprune.core.flow.call import Declined
from edgeprune.core.graph import constant_of, downstream, name_of, static_shape, upstream
from edgeprune.core.linear import Linear, linear_of
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.widths.flow import Order, run_widths, trace
from edgeprune.core.widths.groups import HeadLayout, Part, WidthGroup, Widths, make_group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir

    from edgeprune.core.attention import Attention
    from edgeprune.core.plan import WidthKind
    from edgeprune.core.recognition import Block, Recognition
    from edgeprune.core.widths.units import Units

# What a rotation of a head's coordinates passes through unchanged; products only with one number for all.
_MOVES = set("Cast Expand Flatten Gather Identity Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split())


@dataclass(frozen=True, slots=True, eq=False)
class _Operand:
    """Queries, keys or values: what makes them, the nodes between, and which of its heads stands where one arrives."""

    part: Part
    between: tuple[ir.Node, ...]
    heads: Units


def find_heads(order: Order, found: Recognition) -> Widths:
    """Heads and head sizes of all blocks."""
    groups: list[WidthGroup] = []
    declined: list[tuple[WidthKind, Refusal]] = []
    kinds: tuple[tuple[WidthKind, Callable[[Order, Block], WidthGroup]], ...]
    kinds = (("heads", _heads), ("head-size", _head_size))
    for block in (block for block in found.blocks if block.attentions):
        for kind, make in kinds:
            made = _tried(make, order, block)
            if isinstance(made, WidthGroup):
                groups.append(made)
            else:
                declined.append((kind, made))
    if not any(block.attentions for block in found.blocks):
        scan = found.blocks[0].mixers[0]
        reason = f"the blocks mix tokens by scans, which have no heads ({scan.op_type} node)"
        none = Refusal(RefusalCode.NOT_APPLICABLE, reason, (name_of(scan),))
        declined = [("heads", none), ("head-size", none)]
    refusals = tuple(dict.fromkeys(refusal for _, refusal in declined))
    return Widths(tuple(groups), refusals, declined=tuple(declined))


def _tried(make: Callable[[Order, Block], WidthGroup], order: Order, block: Block) -> WidthGroup | Refusal:
    try:
        return make(order, block)
    except Declined as declined:
        return declined.refusal


def _heads(order: Order, block: Block) -> WidthGroup:
    """Whole heads: all of a head's coordinates are one unit, and heads that share keys stay together."""
    layout, _ = _layout(order, block)
    count = len(layout.query.columns)
    if count < 2:
        _decline(block, "the attention has one head")
    if len(layout.key.columns) == 1:
        _decline(block, "all heads share one key and one value, and go together or not at all")
    marks = [(layout.query, 0), (layout.key, count), (layout.value, count + len(layout.key.columns))]
    return _grown(order, block, "heads", layout, [(part, at, 0) for part, at in marks])


def _head_size(order: Order, block: Block) -> WidthGroup:
    """Coordinates within every head: the same one of queries, keys and values is one unit.

    Raises:
        Declined: where a rotation of the coordinates would change what is computed.
    """
    layout, between = _layout(order, block)
    adders = {part.linear.adder for part in (layout.query, layout.key, layout.value)}
    bent = next((node for node in between if node not in adders and not _moves_only(node)), None)
    if bent is not None:
        reason = "the coordinates of a head are rotated, normalised or scaled one by one"
        raise Declined(Refusal(RefusalCode.WIDTH_BOUND, f"{reason} ({bent.op_type} node)", (name_of(bent),)))
    sizes = {part.columns.shape[1] for part in (layout.query, layout.key, layout.value)}
    if len(sizes) > 1 or layout.key.columns.shape != layout.value.columns.shape:
        _decline(block, "queries, keys and values differ in head size")
    if _lead(block.attention.key) != _lead(block.attention.query):
        _decline(block, "heads share keys that are not written out for each of them")
    return _grown(
        order, block, "head-size", layout, [(part, 0, 1) for part in (layout.query, layout.key, layout.value)]
    )


def _moves_only(node: ir.Node) -> bool:
    """Whether a node moves numbers, or multiplies all of them by one constant."""
    constants = [array for value in node.inputs if (array := constant_of(value)) is not None]
    return node.op_type in _MOVES or (node.op_type in {"Mul", "Div"} and [array.size for array in constants] == [1])


def _grown(
    order: Order,
    block: Block,
    kind: WidthKind,
    layout: HeadLayout,
    marks: Sequence[tuple[Part, int, int]],
) -> WidthGroup:
    """Number the projections' columns by head (axis 0) or coordinate (axis 1), and follow them to the consumer.

    Raises:
        Declined: where they meet something that cannot follow.
    """
    producers = list({id(part.linear.node): part.linear for part, _, _ in marks}.values())
    columns = {linear.node: np.full(linear.weight.shape[1], -1) for linear in producers}
    for part, at, axis in marks:
        numbers = at + np.arange(part.columns.shape[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
        columns[part.linear.node][part.columns] = np.broadcast_to(numbers, part.columns.shape)
    if any((units < 0).any() for units in columns.values()):
        _decline(block, "a projection makes more than queries, keys and values")
    seeds = {}
    for node, units in columns.items():
        rank = len(node.outputs[0].shape or (0,))
        seeds[node.outputs[0]] = units.reshape((1,) * (rank - 1) + (-1,))
    flow = run_widths(order, seeds, wide=True)
    if flow.refusal is not None:
        raise Declined(flow.refusal)
    consumer = linear_of(flow.consumers[0]) if len(flow.consumers) == 1 else None
    if consumer is None:
        _decline(block, f"the attention ends in {len(flow.consumers)} weights, expected one")
    return make_group(kind, block.index, 0, producers, consumer, flow, layout)


def _layout(order: Order, block: Block) -> tuple[HeadLayout, list[ir.Node]]:
    """Where the heads of a block stand, and the nodes between its projections."""
    attention = block.attention
    if len(block.attentions) > 1:
        _decline(block, "several attentions stand in parallel")
    if attention.product is None or attention.query is None or attention.key is None or attention.value is None:
        _decline(block, "the product of queries and keys was not found")
    query = _operand(order, block, attention.query, -1)
    key = _operand(order, block, attention.key, -2)
    value = _operand(order, block, attention.value, -1)
    count = len(query.part.columns)
    shared = _shared(block, key, count)
    if not np.array_equal(shared, _shared(block, value, count)):
        _decline(block, "heads share keys otherwise than values")
    rows, behind = _rows(order, block, attention, value.part, shared)
    layout = HeadLayout(query.part, key.part, value.part, rows, attention.product, shared)
    return layout, [*query.between, *key.between, *value.between, *behind]


def _operand(order: Order, block: Block, value: ir.Value, coordinate: int) -> _Operand:
    """Trace single columns from the projection to an operand of attention.

    Raises:
        Declined: where they do not arrive.
    """
    linear = _made_by(block, value)
    out = linear.node.outputs[0]
    between = order.only(_between(linear, value))
    width = linear.weight.shape[1]
    rank = len(out.shape or (0,))
    flow = trace(between, {out: np.arange(width).reshape((1,) * (rank - 1) + (-1,))})
    if flow.refusal is not None and value not in flow.units:
        raise Declined(flow.refusal)
    passed = [node for node in between.nodes if any(v in flow.units for v in node.outputs)]
    columns, heads = _by_head(block, flow.units.get(value), coordinate)
    return _Operand(Part(linear, columns), tuple(passed), heads)


def _by_head(block: Block, units: Units | None, coordinate: int) -> tuple[Units, Units]:
    """[H, Dh] of what arrives at an operand [..., H, T, Dh], and which of them stands at each place before T.

    Batches hold the same heads again, and heads that share keys the same keys.
    """
    if units is None or units.ndim < 2:
        _decline(block, "no projection was found behind an operand of the attention")
    flat = np.moveaxis(units, coordinate, -1)
    if flat.shape[-2] != 1:
        _decline(block, "tokens differ in the columns that make them")
    rows = flat.reshape(-1, flat.shape[-1])
    _, first, places = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return np.asarray(rows[np.sort(first)]), np.asarray(rank[places.reshape(-1)])


def _shared(block: Block, operand: _Operand, count: int) -> Units:
    """[H], the head of keys or values that each head of queries reads."""
    if len(operand.part.columns) == 1:
        return np.zeros(count, np.int64)
    if len(operand.heads) < count:
        _decline(block, f"{count} heads of queries meet {len(operand.heads)} of keys or values")
    return operand.heads[:count].astype(np.int64)


def _lead(value: ir.Value | None) -> tuple[int, ...]:
    return (static_shape(value) or ())[:-2] if value is not None else ()


def _made_by(block: Block, value: ir.Value) -> Linear:
    """The one projection that a value is made by."""
    found: dict[ir.Node, Linear] = {}
    stack, seen = [value], set()
    while stack:
        node = stack.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        linear = linear_of(node)
        if linear is not None:
            found[node] = linear
        else:
            stack.extend(v for v in node.inputs if v is not None)
    if len(found) != 1:
        _decline(block, f"an operand of the attention is made by {len(found)} projections, expected one")
    return next(iter(found.values()))


def _rows(order: Order, block: Block, attention: Attention, part: Part, shared: Units) -> tuple[Units, list[ir.Node]]:
    """Which row of the output projection each coordinate of each head meets; and the nodes on the way.

    Raises:
        Declined: where they meet none.
    """
    assert attention.value is not None
    out = part.linear.node.outputs[0]
    width, rank = part.linear.weight.shape[1], len(out.shape or (0,))
    behind = downstream([attention.value])
    seeds = {out: np.arange(width).reshape((1,) * (rank - 1) + (-1,))}
    flow = trace(order.only(behind | _between(part.linear, attention.value)), seeds)
    consumer = next((linear_of(node) for node in flow.consumers), None)
    if consumer is None:
        raise Declined(flow.refusal or _refusal(block, "the heads meet no weight"))
    columns = flow.units[consumer.data].reshape(-1)
    by_column = np.argsort(columns, kind="stable")
    first = np.searchsorted(columns[by_column], part.columns)
    before = np.array([int((shared[:head] == own).sum()) for head, own in enumerate(shared)])
    if len(columns) != part.columns.shape[1] * len(shared):
        _decline(block, "the output projection reads more or less than the heads")
    path = [v.producer() for v in flow.units if v.producer() in behind]
    inner = upstream(consumer.data)
    rows = by_column[first[shared] + before[:, None]]
    return rows, [n for n in path if n is not None and n in inner and n.op_type != "MatMul"]


def _between(linear: Linear, value: ir.Value) -> set[ir.Node]:
    """The nodes from a projection to a value that it makes, found from below: little lies between."""
    inside: set[ir.Node] = set()
    stack = [value]
    while stack:
        node = stack.pop().producer()
        if node is not None and node is not linear.node and node not in inside:
            inside.add(node)
            stack.extend(v for v in node.inputs if v is not None)
    return inside


def _refusal(block: Block, reason: str) -> Refusal:
    softmax = block.attention.softmax
    return Refusal(RefusalCode.WIDTH_BOUND, f"{reason} ({softmax.op_type} node)", (name_of(softmax),))


def _decline(block: Block, reason: str) -> NoReturn:
    raise Declined(_refusal(block, reason))
