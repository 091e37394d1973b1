"""What was measured, on a terminal: the gain first, then the times, then what the device said meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from edgeprune.report.benched import BenchReport, BenchRow, Machine, Ratio
from edgeprune.report.terminal import render_notes, table
from edgeprune.report.words import count, small
from edgeprune_targets.readings import Spread

# By their units, so that new rails and sensors need no entry.
_UNITS = {"_mhz": "MHz", "_w": "W", "_c": "C", "_percent": "%", "_mb": "MB"}


def render_bench(report: BenchReport) -> RenderableType:
    """Lay out what `bench` measured."""
    return Group(
        *(_gain(row) for row in report.rows),
        "",
        *_times(report),
        *_sensors(report),
        Text(_conditions(report)),
        *render_notes((), report.warnings),
    )


def _gain(row: BenchRow) -> Text:
    if row.error is not None:
        return Text.assemble((f"{row.runtime}  ", "bold"), (f"not measured: {row.error}", "yellow"))
    where = f"{row.version}, {row.precision}, on {row.device}"
    gain = f"{_ratio(row.ratio)}, measured" if row.ratio else f"{row.models[0].timing.p50_ms:.3f} ms p50, measured"
    return Text.assemble((f"{row.runtime}  ", "bold"), f"{gain} with {where}")


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.median:.3f}x (80 %: {ratio.low_80:.3f} to {ratio.high_80:.3f}, 95 %: {_wide(ratio)})"


def _wide(ratio: Ratio) -> str:
    return f"{ratio.low_95:.3f} to {ratio.high_95:.3f}"


def _times(report: BenchReport) -> Iterator[RenderableType]:
    columns = ("runtime", "model", "MACs", "p50 ms", "p90 ms", "p99 ms", "runs", "rel. error")
    made = table("Measured latencies", *columns, left=2)
    macs = {model.role: model.macs for model in report.models}
    for row in report.rows:
        for model in row.models:
            timing = model.timing
            times = (f"{ms:.3f}" for ms in (timing.p50_ms, timing.p90_ms, timing.p99_ms))
            error = small(model.check.relative_error)
            made.add_row(row.runtime, model.role, count(macs[model.role]), *times, str(timing.samples), error)
    if made.row_count:
        yield made


def _sensors(report: BenchReport) -> Iterator[RenderableType]:
    made = table("Meanwhile", "runtime", "sensor", "low", "median", "high", left=2)
    for row in report.rows:
        for name, spread in row.sensed.values.items():
            made.add_row(row.runtime, *_spread(name, spread))
    if made.row_count:
        yield made


def _spread(name: str, spread: Spread) -> tuple[str, ...]:
    ending = f"_{name.rpartition('_')[2]}"
    words = name.removesuffix(ending).replace("_", " ") if ending in _UNITS else name
    shown = (f"{value:.4g}" for value in (spread.low, spread.median, spread.high))
    return (f"{words}, {_UNITS[ending]}" if ending in _UNITS else words, *shown)


def _conditions(report: BenchReport) -> str:
    sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in report.inputs.items())
    how = f"{report.rounds} rounds, each model twice a round, in turn" if len(report.models) > 1 else "one model"
    threads = f"threads: {report.threads}" if report.threads else "threads as the runtime chooses"
    return f"fed {report.data} as {sizes}; {how}; {threads}; {_machine(report.machine)}"


def _machine(machine: Machine) -> str:
    words = [f"{machine.processor}, {machine.cores} cores"]
    words += [f"governor {machine.governor}"] if machine.governor else []
    words += [f"load {machine.load_1m:.2f} before"] if machine.load_1m is not None else []
    words += [f"{machine.gpu}, driver {machine.gpu_driver}"] if machine.gpu else []
    return ", ".join(words)
