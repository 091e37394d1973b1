"""measured.json: what a device measured by itself with the bundle's `bench.sh`, read back as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec

from edgeprune.core.errors import TargetError
from edgeprune.core.results import BlockLatency, Latency, Timing

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1
_AGAIN = "run the deploy folder's ./bench.sh on the device again, and copy its measured.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensors:
    """What the device told while an engine ran; None where it does not tell.

    Attributes:
        source: 'tegrastats' or 'nvidia-smi'.
        samples: looks at the sensors.
        busy_samples: those with a GPU load of half or more; clocks and power are theirs, if there are any.
        gpu_mhz_min: lowest GPU clock.
        gpu_mhz_mean: of the GPU clock.
        gpu_mhz_max: highest GPU clock.
        memory_mhz_mean: of the memory clock.
        temperature_c: highest, by sensor.
        power_mw: mean, by rail.
    """

    source: str
    samples: int
    busy_samples: int
    gpu_mhz_min: float | None = None
    gpu_mhz_mean: float | None = None
    gpu_mhz_max: float | None = None
    memory_mhz_mean: float | None = None
    temperature_c: dict[str, float] = field(default_factory=dict)
    power_mw: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredEngine:
    """One engine, timed.

    Attributes:
        onnx_sha256: of the lowered graph that it was built from.
        engine_sha256: of the engine.
        engine_bytes: of the engine.
        build_flags: of trtexec, those that depend on its version.
        p50_ms: median GPU compute time over all rounds.
        p90_ms: nine in ten runs are faster.
        p99_ms: ninety-nine in a hundred runs are faster.
        samples: runs that were timed.
        rounds: the same for each round.
        sensors: of the device while it ran.
        profile: trtexec's per-layer times, the text of its JSON.
        layers: trtexec's description of the layers, the text of its JSON.
    """

    onnx_sha256: str
    engine_sha256: str
    engine_bytes: int
    build_flags: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    samples: int
    rounds: tuple[Timing, ...] = ()
    sensors: Sensors | None = None
    profile: str | None = None
    layers: str | None = None

    @property
    def timing(self) -> Timing:
        """Over all rounds."""
        return Timing(p50_ms=self.p50_ms, p90_ms=self.p90_ms, p99_ms=self.p99_ms, samples=self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Of a Jetson before it was measured. `locked`: lowest and highest GPU clock are one."""

    locked: bool | None = None
    gpu_min_mhz: float | None = None
    gpu_max_mhz: float | None = None
    memory_mhz: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How it was timed."""

    rounds: int
    duration_s: int
    warmup_ms: int
    flags: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measured.json.

    Attributes:
        schema: version of this format.
        kind: 'measured'.
        target: name of the profile that the bundle was made for.
        precision: of the matrix products.
        source_sha256: of the model that was compiled; empty if the bundle does not say.
        plan_sha256: of plan.json.
        tensorrt: version on the device.
        lowered_for: TensorRT that the graphs were lowered for; empty if for none in particular.
        device: in its own words.
        compute_capability: as 'major.minor'; empty if unknown.
        l4t: Jetson Linux release; empty off Jetson.
        jetpack: empty off Jetson.
        driver: empty on Jetson.
        power_mode: of nvpmodel; empty off Jetson.
        clocks: before the runs.
        overcurrent_events: how often the board throttled itself meanwhile.
        date: when, UTC.
        settings: how it was timed.
        warnings: what spoils the numbers, in sentences.
        dense: None if the bundle held no dense model.
        pruned: the compiled model.
    """

    schema: int
    kind: str
    target: str
    precision: str
    source_sha256: str
    plan_sha256: str
    tensorrt: str
    lowered_for: str
    device: str
    compute_capability: str
    l4t: str
    jetpack: str
    driver: str
    power_mode: str
    clocks: Clocks
    overcurrent_events: int
    date: str
    settings: Settings
    warnings: tuple[str, ...] = ()
    dense: MeasuredEngine | None = None
    pruned: MeasuredEngine


def read_measured(path: Path) -> Measured:
    """Read and check one measured.json.

    Raises:
        TargetError: if it cannot be read, is something else, or holds what cannot have been measured.
    """
    try:
        raw = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror or error}"
        raise TargetError(
            msg,
            hint="give the measured.json that ./bench.sh wrote on the device, or what `edgeprune bench -o` wrote here",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"{path} is not JSON: {error}"
        raise TargetError(msg, hint=_AGAIN) from error
    _check_kind(raw, path)
    try:
        measured = msgspec.convert(raw, Measured)
    except msgspec.ValidationError as error:
        msg = f"{path} is no measurement: {error}"
        raise TargetError(msg, hint=_AGAIN) from error
    for name, engine in (("dense", measured.dense), ("pruned", measured.pruned)):
        if engine is not None:
            _check_times(engine, name, path)
    return measured


def _check_kind(raw: Any, path: Path) -> None:
    if not isinstance(raw, dict) or raw.get("kind") != "measured":
        msg = f"{path} is no measurement: expected a JSON object with `kind` measured"
        raise TargetError(
            msg,
            hint="give the measured.json that ./bench.sh wrote on the device, or what `edgeprune bench -o` wrote here",
        )
    if raw.get("schema") != SCHEMA:
        msg = f"{path} has schema {raw.get('schema')}, expected {SCHEMA}: `schema`"
        raise TargetError(msg, hint="measure with a bundle of this version of edgeprune")


def _check_times(engine: MeasuredEngine, name: str, path: Path) -> None:
    for timing in (engine.timing, *engine.rounds):
        times = (timing.p50_ms, timing.p90_ms, timing.p99_ms)
        if not all(isfinite(ms) and ms > 0 for ms in times) or timing.samples < 1:
            msg = f"{path} has {name} times {times} of {timing.samples} runs, expected numbers above 0"
            raise TargetError(msg, hint=_AGAIN)
        if sorted(times) != list(times):
            msg = f"{path} has {name} times {times}, expected p50 <= p90 <= p99"
            raise TargetError(msg, hint=_AGAIN)


def to_latency(measured: Measured, blocks: tuple[BlockLatency, ...] = ()) -> Latency:
    """The measurement as a row of a report.

    Args:
        measured: with a dense engine.
        blocks: time by block, of `attribution.block_latencies`.

    Raises:
        TargetError: if the dense model was not measured, so that no gain is known.
    """
    if measured.dense is None:
        msg = "measured.json holds no time of the dense model, so there is no gain to report"
        raise TargetError(msg, hint="make the bundle with the dense model, and run ./build.sh and ./bench.sh again")
    dense, pruned = measured.dense, measured.pruned
    mode = f" ({measured.power_mode})" if measured.power_mode else ""
    rounds, seconds = measured.settings.rounds, measured.settings.duration_s
    return Latency(
        target=measured.target,
        kind="measured",
        dense_p50_ms=dense.p50_ms,
        pruned_p50_ms=pruned.p50_ms,
        speedup=dense.p50_ms / pruned.p50_ms,
        method=f"trtexec on the device, GPU compute time, {rounds} rounds of {seconds} s, dense and pruned in turns",
        runtime=f"TensorRT {measured.tensorrt}",
        precision=measured.precision,
        device=f"{measured.device}{mode}",
        dense_timing=dense.timing,
        pruned_timing=pruned.timing,
        blocks=blocks,
    )


def matches(
    measured: Measured, *, source_sha256: str, plan_sha256: str, pruned_sha256: str = "", dense_sha256: str = ""
) -> list[str]:
    """Why a measurement is not of a certain compile, in sentences; empty if it is.

    Args:
        measured: what a device measured.
        source_sha256: of the model that was compiled.
        plan_sha256: of its plan.json.
        pruned_sha256: of the lowered graph in its deploy folder; not compared if empty.
        dense_sha256: of the lowered dense graph there; not compared if empty.
    """
    dense = measured.dense.onnx_sha256 if measured.dense is not None else ""
    pairs = (
        ("model that was compiled", measured.source_sha256, source_sha256),
        ("plan", measured.plan_sha256, plan_sha256),
        ("model.onnx of the bundle", measured.pruned.onnx_sha256, pruned_sha256),
        ("dense.onnx of the bundle", dense, dense_sha256),
    )
    return [
        f"the {what} has sha256 {wanted[:12]}, the measured one {found[:12]}"
        for what, found, wanted in pairs
        if found and wanted and found != wanted
    ]
