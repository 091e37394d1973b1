"""Measure on this machine: open each model in each runtime, check that it is right there, then time it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgeprune._measuring import interleave, paired_latency
from edgeprune._paired import FEWEST_ROUNDS, is_dispersed, ratio_of, timing_of
from edgeprune.core.costs import count_macs
from edgeprune.core.errors import EdgepruneError, PlanError
from edgeprune.core.results import EngineCheck
from edgeprune.report.benched import BenchModel, BenchReport, BenchRow, Machine, ModelTiming
from edgeprune.report.environment import describe_environment
from edgeprune_calibration.runner import Runner
from edgeprune_targets.nvml import find_gpu
from edgeprune_targets.processor import LoadMark, ProcessorClock, processor_name
from edgeprune_targets.sensors import Watch, open_sensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeprune._contenders import Contender
    from edgeprune._measuring import Taken
    from edgeprune._runners import Choice, Opened, Runtime
    from edgeprune.core.progress import Progress
    from edgeprune.core.results import Latency
    from edgeprune.options import Options
    from edgeprune_calibration.data import Feed
    from edgeprune_targets.builders.driver import Device

# Relative error that rounding explains, with a token or two chosen differently where scores are nearly equal.
_LIMITS = {"fp32": 0.02, "fp16": 0.1}
_CHECKED = 2  # inputs; the check is of the runtime, the proofs of the model are `validate`'s
_CROWDED = 0.25  # cores that others may use before it is said


class Measurement:
    """One bench: what is timed, with what, and how often.

    Args:
        contenders: a dense and a pruned model, or one.
        feeds: inputs, taken in turn.
        device: the NVIDIA device that is here.
        rounds: to time.
        warm_up: fewest runs of each model before.
        options: threads and precision.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        feeds: Sequence[Feed],
        device: Device | None,
        *,
        rounds: int,
        warm_up: int,
        options: Options,
    ) -> None:
        self.contenders, self.feeds, self.device = contenders, feeds, device
        self.rounds, self.warm_up, self.options = rounds, warm_up, options
        self._references: list[list[Feed]] = []

    @property
    def references(self) -> list[list[Feed]]:
        """Outputs of each model on the first inputs, run node by node as the graphs stand."""
        if not self._references:
            some = self.feeds[:_CHECKED]
            for one in self.contenders:
                runner = Runner(one.model, threads=self.options.threads, optimise=False)
                self._references.append([runner.run(feed) for feed in some])
        return self._references

    def row(self, runtime: Runtime) -> tuple[BenchRow, Taken | None]:
        """Measure with one runtime; one that fails says why, and the others still count."""
        precision = runtime.precision(self.options.precision)
        device = self.device.name if runtime.on_gpu and self.device is not None else processor_name()
        row = BenchRow(
            runtime=runtime.name, version=runtime.version(), device=device, precision=precision, timed=runtime.timed
        )
        try:
            with ExitStack() as stack:
                opened = [runtime.open(one.model, precision, self.options.threads, stack) for one in self.contenders]
                checks = [self._check(one, i, _LIMITS[precision]) for i, one in enumerate(opened)]
                if wrong := _wrong(self.contenders, checks, _LIMITS[precision]):
                    return replace(row, error=wrong), None
                return self._timed(row, opened, checks, gpu=runtime.on_gpu)
        except EdgepruneError as error:
            return replace(row, error=str(error)), None

    def _timed(
        self, row: BenchRow, opened: Sequence[Opened], checks: Sequence[EngineCheck], *, gpu: bool
    ) -> tuple[BenchRow, Taken]:
        with open_sensors(gpu=gpu) as sensors:
            watch = Watch(sensors)
            before = LoadMark.now()
            runs = [one.timed(self.feeds) for one in opened]
            taken = interleave(runs, rounds=self.rounds, warm_up=self.warm_up, between=watch)
            after = LoadMark.now()
        models = tuple(
            ModelTiming(role=one.role, timing=timing_of(ms), check=check)
            for one, ms, check in zip(self.contenders, taken.runs_ms, checks, strict=True)
        )
        measured = replace(
            row,
            models=models,
            ratio=ratio_of(taken.ratios) if taken.ratios else None,
            warm_up=taken.warm_up,
            steady=taken.steady,
            sensed=watch.summary(),
            load=before.until(after) if before and after else None,
        )
        return measured, taken

    def _check(self, opened: Opened, contender: int, limit: float) -> EngineCheck:
        found = [opened.run(feed) for feed in self.feeds[:_CHECKED]]
        return compare(found, self.references[contender], limit)


def compare(found: Sequence[Feed], wanted: Sequence[Feed], limit: float) -> EngineCheck:
    """Outputs against those of the reference; the worst output of the worst sample decides."""
    cosines, errors = [], []
    for got, want in zip(found, wanted, strict=True):
        for name, array in want.items():
            a, b = (np.asarray(x, np.float64).ravel() for x in (got[name], array))
            size = float(np.linalg.norm(b)) or 1.0
            errors.append(float(np.linalg.norm(a - b)) / size)
            cosines.append(float(a @ b) / ((float(np.linalg.norm(a)) or 1.0) * size))
    # A comparison with NaN is false, so that NaN never passes; and JSON has no NaN.
    error = max(errors) if all(np.isfinite(errors)) else float("inf")
    cosine = min(cosines) if all(np.isfinite(cosines)) else -1.0
    return EngineCheck(samples=len(found), cosine=cosine, relative_error=error, passed=error <= limit)


def _wrong(contenders: Sequence[Contender], checks: Sequence[EngineCheck], limit: float) -> str | None:
    for one, check in zip(contenders, checks, strict=True):
        if not check.passed:
            return (
                f"its outputs of the {one.role} model are wrong: relative error {check.relative_error:.2g} to the "
                f"graph run node by node, expected at most {limit:g}; a fast wrong answer is not timed"
            )
    return None


def measure(bench: Measurement, choice: Choice, data: str, progress: Progress) -> BenchReport:
    """Measure with each runtime and gather the report."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rows: list[BenchRow] = []
    latency: list[Latency] = []
    with progress.stage("measure", len(choice.runtimes)) as stage:
        for runtime in choice.runtimes:
            row, taken = bench.row(runtime)
            rows.append(row)
            latency += _latency(row, taken)
            stage.advance(1)
    rows += [BenchRow(runtime=name, error=str(lack)) for name, lack in choice.lacking.items()]
    first = bench.contenders[0]
    return BenchReport(
        models=tuple(_model(one) for one in bench.contenders),
        inputs={spec.name: tuple(size or 0 for size in spec.shape) for spec in first.specs()},
        data=data,
        rounds=bench.rounds,
        threads=bench.options.threads,
        rows=tuple(rows),
        latency=tuple(latency),
        machine=_machine(bench.device, load),
        warnings=tuple(warning for row in rows for warning in _warnings(row)),
        environment=describe_environment(),
        command=bench.options.command,
    )


def _model(one: Contender) -> BenchModel:
    return BenchModel(role=one.role, name=str(one.path), sha256=one.sha256, macs=count_macs(one.model))


def _latency(row: BenchRow, taken: Taken | None) -> Iterator[Latency]:
    if taken is not None and taken.ratios:
        yield paired_latency(row.runtime, taken, runtime=row.version, precision=row.precision, device=row.device)


def _machine(device: Device | None, load: float | None) -> Machine:
    gpu = find_gpu() if device is not None else None
    return Machine(
        processor=processor_name(),
        cores=os.cpu_count() or 0,
        governor=ProcessorClock().governor(),
        load_1m=load,
        gpu=device.name if device is not None else "",
        gpu_driver=gpu.driver if gpu is not None else "",
        gpu_power_limit_w=gpu.power_limit_w if gpu is not None else None,
    )


def _warnings(row: BenchRow) -> Iterator[str]:
    """What makes the figures of a runtime less sure."""
    load = row.load
    if load is not None and load.others > _CROWDED:
        yield f"{row.runtime}: other processes used {load.others:.1f} cores meanwhile; read the ratio, not the times"
    if load is not None and load.stolen > _CROWDED:
        yield f"{row.runtime}: the host took {load.stolen:.1f} cores from this virtual machine meanwhile"
    wide = [model.role for model in row.models if is_dispersed(model.timing)]
    if wide:
        yield f"{row.runtime}: times of {' and '.join(wide)} are spread, p90 is over 1.25 times the median"
    if row.models and not row.steady:
        yield f"{row.runtime}: times still changed after {row.warm_up} warm-up runs of each model"
    if row.sensed.throttled:
        yield f"{row.runtime}: the device ran below its clock: {', '.join(row.sensed.throttled)}"
    if row.ratio is not None and row.ratio.low_95 <= 1 <= row.ratio.high_95:
        yield f"{row.runtime}: no difference between the models is shown at 95 %"


def check_counts(rounds: int, warm_up: int) -> None:
    """Check that so many runs can say something.

    Raises:
        PlanError: if they are too few.
    """
    for name, value, fewest, why in (
        ("rounds", rounds, FEWEST_ROUNDS, "fewer give no 95 % interval"),
        ("warm_up", warm_up, 1, "the first run pays for memory"),
    ):
        if value < fewest:
            msg = f"`{name}` is {value}, expected {fewest} or more"
            raise PlanError(msg, hint=f"{why}; leave it out for the default")
