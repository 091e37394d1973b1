"""Modelled latencies on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from edgeprune.report.terminal import table
from edgeprune.report.words import percent, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeprune.core.results import Interval
    from edgeprune.report.modelled import LatencyTable, ModelledGain
    from edgeprune_targets.latency import Estimate


def render_latency(found: LatencyTable, *, blocks: bool = False) -> RenderableType:
    """Lay out one line a target, then what to know about each number."""
    parts: list[RenderableType] = [_targets(found)]
    if found.compared:
        parts += ["", _gains(found)]
    if blocks:
        parts += ["", _blocks(found)]
    return Group(*parts, "", *_notes(found))


def _targets(found: LatencyTable) -> RenderableType:
    made = table(
        f"Latency, modelled ({found.precision}): {found.model}",
        "target", "modelled p50 ms", "80 % interval", "time, first = 1", "bound by", "kernels",
    )  # fmt: skip
    for row in found.rows:
        one = row.estimate
        numbers = (f"{one.p50_ms:.3f}", _interval(one.interval), f"{row.against_first:.2f}", _bound(one))
        made.add_row(one.target, *numbers, str(one.kernels))
    return made


def _gains(found: LatencyTable) -> RenderableType:
    made = table(
        f"Speed-up, modelled ({found.precision}): {found.compared}",
        "target", "modelled p50 ms", "80 % interval", "speed-up", "80 % interval", "selection ms", "kernels",
    )  # fmt: skip
    for gain in _given(found):
        other, near = gain.estimate, gain.speedup_interval
        speed = f"{times(near.low)} to {times(near.high)}"
        made.add_row(
            other.target, f"{other.p50_ms:.3f}", _interval(other.interval), times(gain.speedup), speed,
            f"{other.selection_ms:.3f}", str(other.kernels),
        )  # fmt: skip
    return made


def _blocks(found: LatencyTable) -> RenderableType:
    made = table("Blocks, modelled ms (-1: before the first)", "block", *(row.estimate.target for row in found.rows))
    times_of = [{part.block: part.ms for part in row.estimate.blocks} for row in found.rows]
    others = [{part.block: part.ms for part in gain.estimate.blocks} for gain in _given(found)]
    for block in sorted({block for parts in times_of for block in parts}):
        cells = [f"{parts.get(block, 0.0):.3f}" for parts in times_of]
        if others:
            cells = [f"{cell} -> {parts.get(block, 0.0):.3f}" for cell, parts in zip(cells, others, strict=True)]
        made.add_row(str(block), *cells)
    return made


def _notes(found: LatencyTable) -> Iterator[RenderableType]:
    yield Text.assemble(("modelled, not measured: ", "bold"), found.method)
    for row in found.rows:
        yield f"{row.estimate.target}: {row.estimate.confidence}"


def _given(found: LatencyTable) -> Iterator[ModelledGain]:
    return (row.compared for row in found.rows if row.compared is not None)


def _interval(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _bound(one: Estimate) -> str:
    return f"{one.bound.most} {percent(getattr(one.bound, one.bound.most))}"
