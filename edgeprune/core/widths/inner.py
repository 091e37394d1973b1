"""The inner width of a block of scans: the channels between its two projections, in every branch.

They are made by the input projection (twice where a gate runs beside) and by the projections of the steps, and end in
the output projection; on the way every branch's projection of step, B and C contracts them too. All of one channel go
together: kernel, skip, row of A, in both directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.flow.call import Declined
from edgeprune.core.graph import consumers, name_of
from edgeprune.core.linear import Linear, linear_of
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.scans import is_selective_scan
from edgeprune.core.widths.flow import run_widths
from edgeprune.core.widths.groups import make_group
from edgeprune.core.widths.seeds import seeds_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block, Recognition
    from edgeprune.core.widths.flow import Order
    from edgeprune.core.widths.groups import WidthGroup

# Step and input: the operands of a scan that have its channels.
_WIDE = 2
_FARTHEST = 256


def find_inner(order: Order, found: Recognition) -> tuple[list[WidthGroup], list[Refusal]]:
    """The inner width of every block that has scans, and why others have none."""
    tried = [_tried(order, block) for block in found.blocks if block.scans]
    groups = [made for made in tried if not isinstance(made, Refusal)]
    return groups, [made for made in tried if isinstance(made, Refusal)]


def _tried(order: Order, block: Block) -> WidthGroup | Refusal:
    try:
        return _group(order, block)
    except Declined as declined:
        return declined.refusal


def _group(order: Order, block: Block) -> WidthGroup:
    # Raises `Declined` where the channels meet what cannot follow.
    consumer = _output(block)
    producers = sorted(_makers(consumer.data), key=lambda linear: order.position[linear.node])
    flow = run_widths(order, seeds_of(producers))
    if flow.refusal is not None:
        raise Declined(flow.refusal)
    ends = [linear_of(node) for node in flow.consumers]
    beside = tuple(linear for linear in ends if linear is not None and linear.node is not consumer.node)
    if consumer.node not in flow.consumers or len(beside) + 1 < len(ends):
        raise _declined(block, f"the channels of the scan end in {len(ends)} products, not all of them plain weights")
    return make_group("inner", block.index, 0, producers, consumer, flow, beside=beside)


def _output(block: Block) -> Linear:
    # The first weight behind all scans of the block; raises `Declined` where the branches end in different ones.
    ends: dict[ir.Node, Linear] = {}
    stack = [scan.node for scan in block.scans]
    seen = set(stack)
    while stack and len(seen) < _FARTHEST:
        for node in consumers(stack.pop().outputs[0]):
            linear = linear_of(node)
            if linear is not None:
                ends[node] = linear
            elif node not in seen and node.outputs:
                seen.add(node)
                stack.append(node)
    if len(ends) != 1:
        raise _declined(block, f"the scans end in {len(ends)} projections, expected one")
    return next(iter(ends.values()))


def _makers(value: ir.Value) -> list[Linear]:
    """The projections that a value is made of; of a scan only what has its channels counts."""
    found: dict[ir.Node, Linear] = {}
    stack, seen = [value], {value}
    while stack:
        node = stack.pop().producer()
        if node is None:
            continue
        linear = linear_of(node)
        if linear is not None:
            found[node] = linear
            continue
        inputs = node.inputs[:_WIDE] if is_selective_scan(node) else node.inputs
        above = [v for v in inputs if v is not None and v not in seen]
        seen.update(above)
        stack += above
    return list(found.values())


def _declined(block: Block, reason: str) -> Declined:
    node = block.scans[0].node
    return Declined(Refusal(RefusalCode.WIDTH_BOUND, f"{reason} ({node.op_type} node)", (name_of(node),)))
