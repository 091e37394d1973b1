"""Runtimes that `bench` measures with: which run here, and how engines are built, checked, timed and closed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

import edgeprune
from edgeprune.compiler.timing.contenders import open_contenders
from edgeprune.compiler.timing.engines import EngineOpened, target_like
from edgeprune.compiler.timing.runners import OnnxRuntime, choose_runtimes
from edgeprune.core.errors import TargetError
from edgeprune_calibration.runner import Runner
from edgeprune_targets.builders.driver import Device, find_device

DEMO = Path(__file__).resolve().parents[2] / "demo"
MODEL, DATA = DEMO / "digits_vit.onnx", DEMO / "digits_test.npz"
QUICK = {"runtimes": ("onnxruntime-cpu",), "rounds": 6, "warm_up": 1}
RTX = Device(name="NVIDIA GeForce RTX 4090", compute_capability="8.9", driver="12.8")
H100 = Device(name="NVIDIA H100 80GB HBM3", compute_capability="9.0", driver="12.6")


def options(**given) -> edgeprune.Options:
    return edgeprune.Options(**{"threads": 1, **given})


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "out"
    edgeprune.compile(MODEL, keep=0.5, out=out, options=options(strategy="uniform", cuts=1))
    return out


def test_without_a_device_nobody_is_told_of_what_needs_one(monkeypatch):
    monkeypatch.setattr("edgeprune_targets.builders.driver.find_device", lambda: None)
    choice = choose_runtimes(())
    assert ([runtime.name for runtime in choice.runtimes], choice.lacking) == (["onnxruntime-cpu"], {})


def test_a_provider_that_does_not_start_is_not_measured_as_another(monkeypatch):
    monkeypatch.setattr(Runner, "provider", property(lambda _: "CPUExecutionProvider"))
    monkeypatch.setattr("edgeprune.compiler.timing.runners.Runner", lambda *_, **__: object.__new__(Runner))
    runtime = OnnxRuntime("onnxruntime-cuda", "CUDAExecutionProvider", on_gpu=True)
    with pytest.raises(
        TargetError, match="could not start CUDAExecutionProvider and fell back to CPUExecutionProvider"
    ):
        runtime.open(open_contenders(MODEL, None, options())[0].model, "fp32", 1, ExitStack())


class FakeEngine:
    """An `EngineRunner` that notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def load(self, feeds) -> None:
        self.calls.append(f"load {feeds['x']}")

    def sample_ms(self) -> float:
        self.calls.append("run")
        return 2.5


def test_an_engine_is_timed_by_its_own_clock_and_loads_an_input_once():
    engine = FakeEngine()
    timed = EngineOpened(engine).timed([{"x": 1}, {"x": 2}])
    assert [timed(run) for run in (0, 0, 1, 1, 2)] == [2.5] * 5
    assert engine.calls == ["load 1", "run", "run", "load 2", "run", "run", "load 1", "run"]


class OrtEngine(FakeEngine):
    """An engine that computes what its graph does, and takes a time that we choose."""

    def __init__(self, model: Path, ms: float) -> None:
        super().__init__()
        self.runner, self.ms, self.is_open = Runner(model, threads=1), ms, True

    def load(self, feeds) -> None:
        pass

    def run(self, feeds):
        return self.runner.run(feeds)

    def sample_ms(self) -> float:
        return self.ms

    def close(self) -> None:
        self.is_open = False


def test_engines_are_built_for_the_device_checked_timed_and_closed(compiled, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    monkeypatch.setattr("edgeprune_targets.builders.driver.find_device", lambda: RTX)
    engines = [OrtEngine(MODEL, 3.0), OrtEngine(compiled / "model.onnx", 2.0)]
    opened = []

    def open_engine(path: Path) -> OrtEngine:
        opened.append((path.name, path.stat().st_size > 10_000))
        return engines[len(opened) - 1]

    monkeypatch.setattr("edgeprune_targets.builders.runner.open_engine", open_engine)
    given = {**QUICK, "runtimes": ["tensorrt-rtx"]}
    report = edgeprune.bench(MODEL, compiled, **given, options=options(data=DATA))
    (row,) = report.rows
    assert (row.error, row.device, row.precision) == (None, "NVIDIA GeForce RTX 4090", "fp16")
    assert row.version.startswith("TensorRT-RTX 1.")
    assert opened == [("model.sm89.engine", True)] * 2  # real engines
    assert (row.ratio.median, row.ratio.low_95, row.ratio.high_95) == (1.5, 1.5, 1.5)
    assert [model.timing.p99_ms for model in row.models] == [3.0, 2.0]
    assert not any(engine.is_open for engine in engines)
    assert report.machine.gpu == "NVIDIA GeForce RTX 4090"
    assert report.machine.gpu_driver


def test_an_engine_that_cannot_be_loaded_says_so_and_the_processor_is_measured_all_the_same(compiled, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    if find_device() is not None:
        pytest.skip("an engine can be loaded here")
    monkeypatch.setattr("edgeprune_targets.builders.driver.find_device", lambda: RTX)
    given = {**QUICK, "runtimes": ["tensorrt-rtx", "onnxruntime-cpu"]}
    failed, measured = edgeprune.bench(compiled / "model.onnx", **given, options=options()).rows
    assert failed.error.startswith("no NVIDIA device here: ")
    assert measured.models


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (H100, "TensorRT-RTX does not build for compute capability 9.0"),
        (
            Device(name="NVIDIA Future", compute_capability="99.0", driver="20.0"),
            "no profile has the compute capability",
        ),
    ],
    ids=["H100", "unknown"],
)
def test_a_device_that_no_engine_can_be_built_for_lacks_the_runtime(device, reason, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    monkeypatch.setattr("edgeprune_targets.builders.driver.find_device", lambda: device)
    assert choose_runtimes(()).lacking["tensorrt-rtx"].reason.startswith(reason)


@pytest.mark.parametrize(
    ("name", "capability", "profile"),
    [
        ("NVIDIA GeForce RTX 4090", "8.9", "rtx-4090"),
        ("NVIDIA GeForce RTX 3090", "8.6", "rtx-3090"),
        ("NVIDIA L4", "8.9", "l4"),
        ("Tesla T4", "7.5", "t4"),
    ],
)
def test_the_profile_is_that_of_the_device(name, capability, profile):
    assert target_like(Device(name=name, compute_capability=capability, driver="12.6")).name == profile
