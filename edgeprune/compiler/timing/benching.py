"""Measure on this machine: open each model in each runtime, check that it is right there, then time it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune.compiler.timing.measuring import interleave, paired_latency
from edgeprune.compiler.timing.paired import FEWEST_ROUNDS, is_dispersed, ratio_of
from edgeprune.core.costs import count_macs
from edgeprune.core.errors import EdgepruneError, PlanError
from edgeprune.report.benched import BenchModel, BenchReport, BenchRow, Machine, ModelTiming
from edgeprune.report.environment import describe_environment
from edgeprune_calibration.runner import Runner
from edgeprune_targets.builders.checking import Trial, check_engine, tolerance_of, yardstick
from edgeprune_targets.builders.runner import timing_of
from edgeprune_targets.nvml import find_gpu
from edgeprune_targets.precision import to_fp16
from edgeprune_targets.processor import LoadMark, ProcessorClock, processor_name
from edgeprune_targets.sensors import Watch, open_sensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeprune.compiler.timing.contenders import Contender
    from edgeprune.compiler.timing.measuring import Taken
    from edgeprune.compiler.timing.runners import Choice, Opened, Runtime
    from edgeprune.core.plan import Precision
    from edgeprune.core.progress import Progress
    from edgeprune.core.results import EngineCheck, Latency
    from edgeprune.options import Options
    from edgeprune_calibration.data import Feed
    from edgeprune_targets.builders.driver import Device

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
        self._trials: dict[Precision, tuple[Trial, ...]] = {}

    def trials(self, precision: Precision) -> tuple[Trial, ...]:
        """For each model what a runtime has to give: what the graph gives in fp32, run node by node as it stands.

        How far fp16 alone moves the outputs is seen in the same way. A token whose score is near another's may fall on
        either side of a cut, so that this depends on the data.
        """
        if precision not in self._trials:
            self._trials[precision] = tuple(self._trial(one, precision) for one in self.contenders)
        return self._trials[precision]

    def _trial(self, one: Contender, precision: Precision) -> Trial:
        feeds, threads = self.feeds[:_CHECKED], self.options.threads
        exact = [Runner(one.model, threads=threads, optimise=False).run(feed) for feed in feeds]
        moved = 0.0
        if precision == "fp16":
            typed = Runner(to_fp16(one.model), threads=threads, optimise=False)
            moved = yardstick([typed.run(feed) for feed in feeds], exact)
        return Trial(feeds=feeds, reference=exact, precision=precision, yardstick=moved)

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
                trials = self.trials(precision)
                checks = [check_engine(one, trial) for one, trial in zip(opened, trials, strict=True)]
                for model, check, trial in zip(self.contenders, checks, trials, strict=True):
                    if not check.passed:
                        return replace(row, error=_wrong(model.role, check, tolerance_of(trial))), None
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


def _wrong(role: str, check: EngineCheck, tolerance: float) -> str:
    return (
        f"its outputs of the {role} model are wrong, and a fast wrong answer is not timed: relative error "
        f"{check.relative_error:.2g}, expected at most about {tolerance:.2g}"
    )


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
        yield paired_latency(
            row.runtime, taken, runtime=row.version, precision=row.precision, device=row.device, timed=row.timed
        )


def _machine(device: Device | None, load: float | None) -> Machine:
    gpu = find_gpu() if device is not None else None
    cuda = f"CUDA {device.driver}" if device is not None else ""  # a Jetson before JetPack 7 has no NVML
    return Machine(
        processor=processor_name(),
        cores=os.cpu_count() or 0,
        governor=ProcessorClock().governor(),
        load_1m=load,
        gpu=device.name if device is not None else "",
        gpu_driver=gpu.driver if gpu is not None else cuda,
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
