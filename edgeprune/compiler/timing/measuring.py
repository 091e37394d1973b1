"""Time what can be timed here: one model, or a dense and a pruned one in turn, so that a busy machine slows both alike.

One round runs the models A B B A, the next one B A A B, so that drift and order favour each in turn. A round's ratio is
that of their faster runs in it, since what disturbs a run only ever slows it down.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from edgeprune.compiler.timing.paired import ratio_of
from edgeprune.core.results import Interval, Latency
from edgeprune_calibration.runner import Runner, onnxruntime_version
from edgeprune_targets.builders.runner import timing_of
from edgeprune_targets.processor import processor_name

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

# Runs once, on input number i, and returns how long that took in milliseconds.
Timed: TypeAlias = Callable[[int], float]

WALL_TIME = "wall time of a run"

_WARM_UP, _ROUNDS = 2, 8  # of a compile: it says whether a cut pays, `bench` says by how much

# Warm is a model whose last runs take as long as those before them: medians of five, within 5 %.
_WINDOW = 5
_STEADY = 0.05
_PATIENCE = 10  # times the warm-up that was asked for; a machine that is not steady then will not become so


@dataclass(frozen=True, slots=True)
class Taken:
    """What was measured.

    Attributes:
        runs_ms: of each model, in the order of the runs.
        ratios: of each round, first model / second; empty for one model.
        warm_up: runs of each model before.
        steady: whether the warm-up ended because times no longer changed.
    """

    runs_ms: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]
    warm_up: int
    steady: bool


def clocked(work: Callable[[int], object], clock: Callable[[], float] = time.perf_counter) -> Timed:
    """Time a piece of work from outside; `clock` in seconds."""

    def timed(run: int) -> float:
        start = clock()
        work(run)
        return (clock() - start) * 1e3

    return timed


def order_of(models: int, round_: int) -> tuple[int, ...]:
    """Which model is run when in a round: forth and back, beginning with another one in each round."""
    forth = [(round_ + i) % models for i in range(models)]
    return (*forth, *reversed(forth))


def interleave(
    models: Sequence[Timed],
    *,
    rounds: int,
    warm_up: int,
    longest: int | None = None,
    between: Callable[[], None] = lambda: None,
) -> Taken:
    """Warm up, then time the models in turn, two runs of each a round.

    Args:
        models: one, or a dense and a pruned one.
        rounds: to time.
        warm_up: fewest runs of each before.
        longest: most runs of each before, where their times do not settle; None for ten times the fewest.
        between: is called before each round, outside of what is timed.
    """
    with _no_collection():
        warm, steady = _warm_up(models, warm_up, longest or max(warm_up, 2 * _WINDOW) * _PATIENCE)
        runs: tuple[list[float], ...] = tuple([] for _ in models)
        ratios = []
        for round_ in range(rounds):
            between()
            for i in order_of(len(models), round_):
                runs[i].append(models[i](round_))
            if len(models) == 2:
                ratios.append(min(runs[0][-2:]) / min(runs[1][-2:]))
    return Taken(tuple(map(tuple, runs)), tuple(ratios), warm, steady)


def _warm_up(models: Sequence[Timed], fewest: int, most: int) -> tuple[int, bool]:
    """Run until times no longer change; the number of runs of each model, and whether that was reached."""
    taken: list[list[float]] = [[] for _ in models]
    for run in range(most):
        for model, times in zip(models, taken, strict=True):
            times.append(model(run))
        if run + 1 >= fewest and all(map(_is_steady, taken)):
            return run + 1, True
    return len(taken[0]), False


def _is_steady(times: Sequence[float]) -> bool:
    if len(times) < 2 * _WINDOW:
        return False
    before, now = median(times[-2 * _WINDOW : -_WINDOW]), median(times[-_WINDOW:])
    return abs(now - before) <= _STEADY * before


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from collecting garbage in the middle of a run."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def cpu_latency(dense: ir.Model, pruned: ir.Model, feed: dict[str, np.ndarray], threads: int) -> Latency:
    """Median latencies of both in ONNX Runtime on this machine's processor, and the median of their rounds' ratios."""
    runs = [clocked(Runner(model, threads=threads).bound(feed)) for model in (dense, pruned)]
    taken = interleave(runs, rounds=_ROUNDS, warm_up=_WARM_UP, longest=_WARM_UP)
    return paired_latency("onnxruntime-cpu", taken, runtime=f"ONNX Runtime {onnxruntime_version()}", precision="fp32")


def paired_latency(
    target: str, taken: Taken, *, runtime: str, precision: str, device: str = "", timed: str = WALL_TIME
) -> Latency:
    """What was measured of a dense and a pruned model, as a row of a report. `timed`: what a run is."""
    dense, pruned = map(timing_of, taken.runs_ms)
    ratio = ratio_of(taken.ratios)
    return Latency(
        target=target,
        kind="measured",
        dense_p50_ms=dense.p50_ms,
        pruned_p50_ms=pruned.p50_ms,
        speedup=ratio.median,
        method=f"{timed}; {len(taken.ratios)} interleaved rounds A B B A",
        runtime=runtime,
        precision=precision,
        device=device or processor_name(),
        speedup_interval=Interval(low=ratio.low_80, high=ratio.high_80),
        dense_timing=dense,
        pruned_timing=pruned,
    )
