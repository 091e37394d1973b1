"""Rows of the report that no clock has seen: latencies by the model of each target."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune.core.results import Latency
from edgeprune_targets.blocks import side_by_side
from edgeprune_targets.latency import METHOD, compare, estimate
from edgeprune_targets.lowering.scans import standard_scans

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.plan import Precision, ScanForm
    from edgeprune_targets.profiles import Target


# The latency model knows attention as one kernel; unfused it is several, with the probabilities written between them.
_UNFUSED = "attention counts as fused here although it is kept unfused: both models take longer"


def modelled(
    dense: ir.Model,
    pruned: ir.Model,
    targets: Sequence[Target],
    precision: Precision,
    *,
    fused_attention: bool = True,
    scan: ScanForm = "auto",
) -> list[Latency]:
    """Dense against pruned on each target; `fused_attention` says whether engines may fuse it, `scan` how scans run."""
    if scan == "loop":
        dense, pruned = standard_scans(dense, scan), standard_scans(pruned, scan)
    rows = [_row(dense, pruned, target, precision) for target in targets]
    return rows if fused_attention else [replace(row, method=f"{row.method}; {_UNFUSED}") for row in rows]


def _row(dense: ir.Model, pruned: ir.Model, target: Target, precision: Precision) -> Latency:
    before, after = estimate(dense, target, precision), estimate(pruned, target, precision)
    times = [{part.block: part.ms for part in each.blocks} for each in (before, after)]
    return Latency(
        target=target.name,
        kind="modelled",
        dense_p50_ms=before.p50_ms,
        pruned_p50_ms=after.p50_ms,
        speedup=before.p50_ms / after.p50_ms,
        method=f"{METHOD}; {after.confidence}",
        precision=precision,
        dense_interval_ms=before.interval,
        pruned_interval_ms=after.interval,
        speedup_interval=compare(before, after),
        blocks=side_by_side(*times),
    )
