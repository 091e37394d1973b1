"""Tokens and MACs of each block, dense against pruned."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from edgeprune.core.costs import node_macs
from edgeprune.core.results import BlockCost
from edgeprune_targets.blocks import STEM, blocks_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.plan import Plan


def block_costs(dense: ir.Model, pruned: ir.Model, plan: Plan) -> tuple[BlockCost, ...]:
    """One a block, from what comes before the first (block -1) to the last, which the head counts with."""
    before, after = _macs_by_block(dense), _macs_by_block(pruned)
    whole = plan.prefix_tokens + plan.patch_tokens
    left = [whole, whole, *(plan.prefix_tokens + kept for kept in plan.schedule())]
    return tuple(
        BlockCost(
            block=block,
            dense_tokens=whole,
            pruned_tokens=left[block + 1],
            dense_macs=before[block],
            pruned_macs=after[block],
        )
        for block in range(STEM, plan.blocks)
    )


def _macs_by_block(model: ir.Model) -> Counter[int]:
    nodes = tuple(model.graph)
    blocks = blocks_of(nodes)
    macs: Counter[int] = Counter()
    for node in nodes:
        macs[blocks[node]] += node_macs(node)
    return macs
