"""A cut inside a block, in front of its scans: what it needs, and where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.errors import PlanError
from edgeprune.core.graph import downstream
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune_passes.selection import Late

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.flow.engine import Flow
    from edgeprune.core.recognition import Block
    from edgeprune_passes.selection import Strategy


def refuse_inside(strategy: Strategy, block: Block) -> Refusal | None:
    """Why a strategy cannot choose tokens in front of the scans of a block, as the alignment `exact` does, or None."""
    if not block.scans:
        return None
    reason = None
    if isinstance(strategy, Late):
        reason = strategy.late
    elif strategy.merges:
        reason = "it merges tokens, and what the scans of the block read is projected already"
    elif block.attentions:
        reason = "the block has attention beside its scans, which needs all tokens"
    return None if reason is None else Refusal(RefusalCode.NOT_APPLICABLE, f"no cut in front of the scans: {reason}")


def require_inside(strategy: Strategy, block: Block) -> None:
    """Check that a strategy can choose tokens in front of the scans of a block, where it has some.

    Raises:
        PlanError: naming what it would read that is not there yet.
    """
    refusal = refuse_inside(strategy, block)
    if refusal is not None:
        msg = f"{strategy.name} cannot be aligned exactly in block {block.index}: {refusal.reason}"
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
