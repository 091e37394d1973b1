"""Rows of the report that no clock has seen: latencies by the model of each target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.results import BlockLatency, Latency
from edgeprune_targets.latency import METHOD, latency_per_block

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.plan import Precision
    from edgeprune_targets.profiles import Target


def modelled(dense: ir.Model, pruned: ir.Model, targets: Sequence[Target], precision: Precision) -> list[Latency]:
    """Dense against pruned on each target."""
    return [_row(dense, pruned, target, precision) for target in targets]


def _row(dense: ir.Model, pruned: ir.Model, target: Target, precision: Precision) -> Latency:
    before = {part.block: part.ms for part in latency_per_block(dense, target, precision)}
    after = {part.block: part.ms for part in latency_per_block(pruned, target, precision)}
    blocks = tuple(
        BlockLatency(block=block, dense_ms=before.get(block, 0.0), pruned_ms=after.get(block, 0.0))
        for block in sorted(before.keys() | after.keys())
    )
    dense_ms, pruned_ms = sum(before.values()), sum(after.values())
    return Latency(
        target=target.name,
        kind="modelled",
        dense_p50_ms=dense_ms,
        pruned_p50_ms=pruned_ms,
        speedup=dense_ms / pruned_ms,
        method=METHOD,
        precision=precision,
        blocks=blocks,
    )
