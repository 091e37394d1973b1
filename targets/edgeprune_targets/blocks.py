"""Which transformer block a node belongs to, for whatever is counted or timed by block."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeprune.core.graph import PREFIX, block_numbers, producers
from edgeprune.core.results import BlockLatency
from edgeprune_targets.attentions import core_of, is_attention

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

STEM = -1
_OURS = re.compile(re.escape(PREFIX) + r"[a-z][a-z0-9-]*/(\d+)(?:/|$)")


def block_in_name(name: str) -> int | None:
    """Block of a node that edgeprune wrote, 'edgeprune/cut/3/gather' -> 3; None for the model's own."""
    found = _OURS.match(name)
    return int(found.group(1)) if found else None


def blocks_of(nodes: Sequence[ir.Node]) -> dict[ir.Node, int]:
    """Block of each node: that of the last attention whose projections have begun on a path to it.

    What comes before the first block is `STEM`. The norm before a block's projections counts with the block before,
    since a compiler fuses it with that block's last residual Add; the head counts with the last block. What edgeprune
    wrote for a block counts with that one.

    Args:
        nodes: of one graph, in its order.
    """
    starts: dict[ir.Node, int] = {}
    anchors = [node for node in nodes if is_attention(node)]
    for index, anchor in zip(block_numbers(nodes), anchors, strict=False):
        for member in core_of(anchor):
            starts.setdefault(member, index)
            for node in producers(member):
                starts.setdefault(_projection(node), index)
    blocks: dict[ir.Node, int] = {}
    for node in nodes:
        written_for = block_in_name(node.name or "")
        inherited = max((blocks.get(producer, STEM) for producer in producers(node)), default=STEM)
        blocks[node] = max(inherited, starts.get(node, STEM)) if written_for is None else written_for
    return blocks


def _projection(node: ir.Node) -> ir.Node:
    """The product with a weight that `node` comes from, through views and the bias; `node` if there is none near."""
    at = node
    for _ in range(12):
        if at.op_type in {"MatMul", "Gemm"}:
            return at
        above = producers(at)
        if not above:
            return node
        at = above[0]
    return node


def side_by_side(dense: Mapping[int, float], pruned: Mapping[int, float]) -> tuple[BlockLatency, ...]:
    """Milliseconds by block of two graphs as rows, ordered; a block that one does not have takes no time there."""
    return tuple(
        BlockLatency(block=block, dense_ms=dense.get(block, 0.0), pruned_ms=pruned.get(block, 0.0))
        for block in sorted(dense.keys() | pruned.keys())
    )
