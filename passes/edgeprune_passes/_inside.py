"""A cut inside a block, in front of its scans: what it needs, and where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.errors import PlanError
from edgeprune.core.graph import downstream
from edgeprune_passes.selection import Late

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.flow.engine import Flow
    from edgeprune.core.recognition import Block
    from edgeprune_passes.selection import Strategy


def require_inside(strategy: Strategy, block: Block) -> None:
    """Check that a strategy can choose tokens in front of the scans of a block.

    Raises:
        PlanError: naming what it would read that is not there yet.
    """
    reason = None
    if isinstance(strategy, Late):
        reason = strategy.late
    elif strategy.merges:
        reason = "it merges tokens, and those that the scans of the block read are projected already"
    elif block.attentions:
        reason = "the block has attention beside its scans, which needs all tokens"
    if reason is not None:
        msg = f"{strategy.name} cannot cut inside block {block.index}, as the alignment exact does: {reason}"
        hint = "give --alignment gap, or --strategy ssm-delta --strategy-option merge=false"
        raise PlanError(msg, hint=hint)


def last_scan(block: Block) -> ir.Node:
    """The scan of a block that comes last in the graph: in front of it the operands of all are there."""
    nodes = {scan.node for scan in block.scans}
    graph = block.scans[0].node.graph
    assert graph is not None
    return next(node for node in reversed(graph) if node in nodes)


def entry_of(block: Block, flow: Flow) -> ir.Value:
    """The stream in front of a block, which its residual Add adds to what the block makes of it.

    Raises:
        PlanError: if there is no such operand.
    """
    producer = block.cut.producer() if block.cut is not None else None
    behind = downstream([scan.node.outputs[0] for scan in block.scans])
    operands = producer.inputs if producer is not None else ()
    for value in operands:
        if value is not None and flow.tokens_on(value) and value.producer() not in behind:
            return value
    msg = f"block {block.index} adds nothing of what is in front of it to what it makes"
    raise PlanError(msg, hint="give --alignment gap, which cuts behind the block")
