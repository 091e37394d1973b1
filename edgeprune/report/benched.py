"""What `edgeprune bench` measured, as one value; `bench --json` prints this file's `BenchReport`."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.core.results import EngineCheck, Latency, Timing
from edgeprune.report.environment import Environment
from edgeprune_targets.processor import Load
from edgeprune_targets.readings import Sensed

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchModel:
    """One of the models that were timed.

    Attributes:
        role: 'dense' and 'pruned' of a pair, 'model' where there is but one.
        name: as the user named it.
        sha256: of the file, as plans know it.
        macs: of one run at the shapes that were timed.
    """

    role: str
    name: str
    sha256: str
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTiming:
    """One model on one runtime. `check`: its outputs there against the graph's, run node by node on the processor."""

    role: str
    timing: Timing
    check: EngineCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Dense time / pruned time: the median over the rounds, with the sign test's intervals of that median.

    A round's ratio is that of the faster of each model's two runs in it, so it may differ a little from the ratio of
    the two medians.
    """

    median: float
    low_80: float
    high_80: float
    low_95: float
    high_95: float
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """One runtime: what was measured on it, or why nothing was.

    Attributes:
        runtime: 'onnxruntime-cpu', 'onnxruntime-cuda', 'onnxruntime-tensorrt', 'tensorrt' or 'tensorrt-rtx'.
        version: with its name: 'ONNX Runtime 1.23.0'.
        device: in its own words.
        precision: of the matrix products.
        timed: what a run is: with or without copies to the device, by which clock.
        models: in the order of `BenchReport.models`; empty where nothing was measured.
        ratio: of a pair; None for one model.
        warm_up: runs of each model before.
        steady: whether times no longer changed after the warm-up.
        sensed: clocks, power and temperatures meanwhile.
        load: who else used the processor meanwhile; None where the system does not tell.
        error: why nothing was measured, and what to do.
    """

    runtime: str
    version: str = ""
    device: str = ""
    precision: str = ""
    timed: str = ""
    models: tuple[ModelTiming, ...] = ()
    ratio: Ratio | None = None
    warm_up: int = 0
    steady: bool = True
    sensed: Sensed = Sensed()  # noqa: RUF009 (frozen, and the same each time)
    load: Load | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was measured on.

    Attributes:
        processor: in its own words.
        cores: that the system shows.
        governor: of the processor's clock; empty where there is none.
        load_1m: load average over the minute before, in runnable tasks; None where the system does not tell.
        gpu: the NVIDIA device in its own words; empty where there is none.
        gpu_driver: version of its driver, or the CUDA that it has where it does not tell.
        gpu_power_limit_w: that is enforced on it.
    """

    processor: str
    cores: int
    governor: str = ""
    load_1m: float | None = None
    gpu: str = ""
    gpu_driver: str = ""
    gpu_power_limit_w: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """Everything that one `bench` measured.

    Attributes:
        schema: version of this format.
        models: a dense and a pruned one, or one.
        inputs: static shapes by name.
        data: what the models were fed, in words.
        rounds: timed runs in turn; each runs every model twice.
        threads: within one operator on the processor; 0 leaves it to the runtime.
        rows: one for each runtime.
        latency: the pairs, as a compile's report holds them.
        machine: what was measured on.
        warnings: sentences that a person should read.
        environment: versions.
        command: words of the command line; empty from Python.
    """

    schema: int = SCHEMA
    models: tuple[BenchModel, ...]
    inputs: dict[str, tuple[int, ...]]
    data: str
    rounds: int
    threads: int
    rows: tuple[BenchRow, ...]
    latency: tuple[Latency, ...] = ()
    machine: Machine
    warnings: tuple[str, ...] = ()
    environment: Environment
    command: tuple[str, ...] = ()
