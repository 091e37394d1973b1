"""Running engines: for real in ONNX Runtime, and TensorRT's flow on stand-ins for the driver and for the library.

The stand-in for the driver is C, so every call goes through the types that the real one is called with.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeprune.core.errors import DataError, TargetError
from edgeprune.core.results import EngineBuild
from edgeprune.core.whole import write_whole
from edgeprune_targets.builders import driver, make_builder
from edgeprune_targets.builders.checking import CheckedBuilder, Trial
from edgeprune_targets.builders.manifest import Manifest, Tensor, manifest_path, read_manifest, to_bytes
from edgeprune_targets.builders.onnx_runtime import OrtBuilder
from edgeprune_targets.builders.runner import open_engine, timing_of
from edgeprune_targets.precision import to_fp16
from edgeprune_targets.profiles import load_target, target_names

HERE = Path(__file__).parent
TWICE = '<ir_version: 8, opset_import: ["": 17]> g (float[1,4] x) => (float[1,4] y) { y = Add(x, x) }'
FEEDS = {"x": np.arange(4, dtype=np.float32)[None]}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that ONNX Runtime optimised."""
    data = onnx.parser.parse_model(TWICE).SerializeToString()
    (result,) = OrtBuilder().build(data, [load_target("rtx-3090")], tmp_path_factory.mktemp("ort"), name="m")
    return Path(result.path)


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for the driver's library, compiled."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler for the stand-in of libcuda: install cc")
    path = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, HERE / "fake_libcuda.c"], check=True)
    return path


@pytest.fixture
def cuda(libcuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """A machine with a device of compute capability 8.6, TensorRT 10.3, and a cache folder of its own."""
    library = ctypes.CDLL(str(shutil.copy(libcuda, tmp_path / "libcuda.so.1")))  # a copy has its own counters
    monkeypatch.setattr(driver, "_library", lambda: library)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_TRT_LOG", str(tmp_path / "calls.jsonl"))
    monkeypatch.syspath_prepend(str(HERE / "fake_tensorrt"))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    driver.find_device.cache_clear()
    yield library
    driver.find_device.cache_clear()
    sys.modules.pop("tensorrt", None)


@pytest.fixture
def engine(tmp_path: Path) -> Callable[..., Path]:
    """Write an engine of the stand-in, with its manifest."""

    def write(**changes: Any) -> Path:
        x, y = (Tensor(name=name, dtype="float32", shape=(1, 4)) for name in "xy")
        plan = {"version": "10.3.0.26", "inputs": [["x", "FLOAT", [1, 4]]], "outputs": [["y", "FLOAT", [1, 4]]]}
        path = tmp_path / "m.sm86.trt.engine"
        write_whole(path, json.dumps(plan).encode())
        manifest = Manifest(
            edgeprune="0",
            builder="tensorrt",
            builder_version="10.3.0.26",
            libraries={},
            compute_capability="8.6",
            lowered_for="",
            typing="strong",
            options={},
            onnx_sha256="",
            plan_sha256="",
            engine_sha256=driver_sha(path),
            bytes=path.stat().st_size,
            kernels=None,
            launches=None,
            attentions=None,
            fused_attentions=None,
            inputs=(x,),
            outputs=(y,),
            seconds=0.0,
        )
        write_whole(manifest_path(path), to_bytes(msgspec.structs.replace(manifest, **changes)))
        return path

    return write


def driver_sha(path: Path) -> str:
    from edgeprune.core.digest import sha256_of

    return sha256_of(path)


def test_an_optimised_model_runs_and_is_timed(built: Path) -> None:
    with open_engine(built) as runner:
        assert [each.name for each in runner.inputs + runner.outputs] == ["x", "y"]
        np.testing.assert_array_equal(runner.run(FEEDS)["y"], 2 * FEEDS["x"])
        timing = runner.time(FEEDS, warm_up=2, samples=20)
    assert timing.samples == 20
    assert 0 < timing.p50_ms <= timing.p90_ms <= timing.p99_ms
    with pytest.raises(TargetError, match="the engine is closed"):
        runner.run(FEEDS)


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({}, "input `x` is not fed, the data has nothing"),
        ({"x": np.zeros((2, 4), np.float32)}, r"is fed float32\[2, 4\], expected float32\[1, 4\]"),
        ({"x": np.zeros((1, 4))}, r"is fed float64\[1, 4\], expected float32\[1, 4\]"),
    ],
)
def test_feeds_that_do_not_fit_are_named(built: Path, feeds: Any, says: str) -> None:
    with open_engine(built) as runner, pytest.raises(DataError, match=says):
        runner.run(feeds)


def test_samples_are_counted_from_one(built: Path) -> None:
    with open_engine(built) as runner, pytest.raises(DataError, match="`samples` is 0"):
        runner.time(FEEDS, samples=0)


def test_percentiles_are_of_the_samples() -> None:
    timing = timing_of([float(number) for number in range(101)])
    assert (timing.p50_ms, timing.p90_ms, timing.p99_ms, timing.samples) == (50.0, 90.0, 99.0, 101)


def test_an_engine_that_was_changed_is_not_run(built: Path, tmp_path: Path) -> None:
    for file in (built, manifest_path(built)):
        shutil.copy(file, tmp_path)
    (tmp_path / built.name).write_bytes(built.read_bytes()[:-1])
    with pytest.raises(TargetError, match="its manifest expects"):
        open_engine(tmp_path / built.name)


def test_engine_runs_on_the_device_and_gives_everything_back(cuda: ctypes.CDLL, engine: Callable[..., Path]) -> None:
    with open_engine(engine()) as runner:
        np.testing.assert_array_equal(runner.run(FEEDS)["y"], 2 * FEEDS["x"])
        np.testing.assert_array_equal(runner.run({"x": -FEEDS["x"], "more": FEEDS["x"]})["y"], -2 * FEEDS["x"])
        assert runner.time(FEEDS, warm_up=1, samples=3).p50_ms == 0.25  # the stand-in's clock ticks once a record
        assert cuda.fake_live() == 6  # context, stream, two events, two buffers
    assert cuda.fake_live() == 0


def test_kernels_of_tensorrt_rtx_are_kept_for_the_next_process(
    cuda: ctypes.CDLL, engine: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRT_RTX", "1")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", importlib.import_module("tensorrt"))
    path = engine(builder="tensorrt-rtx")
    for _ in range(2):
        open_engine(path).close()
    log = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text(encoding="utf-8").splitlines()]
    assert log == [
        {"call": "context", "cached": True},
        {"call": "runtime_cache", "data": "COMPILED"},
        {"call": "context", "cached": True},
    ]
    (kept,) = (tmp_path / "cache" / "edgeprune" / "kernels").iterdir()
    assert kept.name == f"{read_manifest(path).engine_sha256[:32]}-sm86-cuda12.8.cache"
    assert cuda.fake_live() == 0


@pytest.mark.parametrize(
    ("changes", "failing", "says"),
    [
        (
            {"compute_capability": "8.7"},
            (b"", 0),
            "is for compute capability 8.7, this machine has Fake RTX 3090 with 8.6",
        ),
        ({}, (b"cuInit", 100), "no NVIDIA device here: cuInit says CUDA_ERROR_NO_DEVICE"),
        ({}, (b"cuMemAlloc_v2", 2), "the NVIDIA driver fails in cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY"),
        ({}, (b"cuMemAlloc_v2", 999), "the NVIDIA driver fails in cuMemAlloc_v2: error 999"),
        (
            {"outputs": (Tensor(name="z", dtype="float32", shape=(1, 4)),)},
            (b"", 0),
            "TensorRT knows no tensor `z` in the engine",
        ),
        ({"outputs": (Tensor(name="y", dtype="float32", shape=(-1, 4)),)}, (b"", 0), "`y` of the engine has the open"),
        ({"builder": "tensorrt-rtx"}, (b"", 0), ""),
        ({"builder": "mine"}, (b"", 0), "engines of the builder `mine` cannot be run by edgeprune"),
    ],
)
def test_what_cannot_be_opened_says_why_and_leaves_nothing(cuda, engine, monkeypatch, changes, failing, says):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    cuda.fake_fail(*failing)
    with pytest.raises(TargetError, match=says or "TensorRT-RTX cannot be loaded here"):
        open_engine(engine(**changes))
    assert cuda.fake_live() == 0


def test_an_engine_of_another_version_names_both(cuda, engine, monkeypatch):
    monkeypatch.setenv("FAKE_TRT", "8.6")
    with pytest.raises(
        TargetError, match=r"TensorRT 8\.6\.2\.3 does not load .* TensorRT 10\.3\.0\.26 built: expecting"
    ):
        open_engine(engine())
    assert cuda.fake_live() == 0


def test_a_run_that_fails_on_the_device_is_an_error(cuda, engine, monkeypatch):
    with open_engine(engine()) as runner:
        cuda.fake_fail(b"cuStreamSynchronize", 700)
        with pytest.raises(TargetError, match="fails in cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"):
            runner.run(FEEDS)
        cuda.fake_fail(b"", 0)
        monkeypatch.setenv("FAKE_TRT_FAIL", "1")
        with pytest.raises(TargetError, match="TensorRT fails to run the engine"):
            runner.run(FEEDS)
    assert cuda.fake_live() == 0


def test_an_engine_that_faults_on_the_device_is_none_and_the_compile_goes_on(cuda, engine, tmp_path):
    """After an illegal access every call of the driver fails, those that give memory back too."""
    path = engine()

    class Built:
        name = "tensorrt"

        def build(self, *_: Any, **__: Any) -> list[EngineBuild]:
            cuda.fake_fail(b"cuStreamSynchronize", 700)
            return [EngineBuild(target="t", builder="tensorrt", compute_capability="8.6", built=True, path=str(path))]

    trial = Trial(feeds=[FEEDS], reference=[{"y": 2 * FEEDS["x"]}])
    built = CheckedBuilder(builder=Built(), trial=trial).build(b"", load_target("rtx-3090"), tmp_path, name="m")
    assert not built.built
    assert built.error == (
        "it does not run here: the NVIDIA driver fails in cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"
    )


def test_the_device_is_found_by_the_driver(cuda: ctypes.CDLL) -> None:
    assert driver.find_device() == driver.Device(name="Fake RTX 3090", compute_capability="8.6", driver="12.8")
    cuda.fake_capability(121)
    driver.find_device.cache_clear()
    assert driver.find_device().compute_capability == "12.1"


def test_without_a_driver_there_is_no_device(engine, monkeypatch):
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    driver.find_device.cache_clear()
    assert driver.find_device() is None
    with pytest.raises(TargetError, match="no NVIDIA device here: the driver's library") as caught:
        open_engine(engine())
    assert caught.value.hint == "run it on a machine with an NVIDIA device and its driver"
    driver.find_device.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_built_here_gives_what_onnxruntime_gives(make_encoder, tmp_path, monkeypatch, name):
    """The one test that needs a device and the runtime; it is skipped where either is absent."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    builder, device = make_builder(name), driver.find_device()
    if reason := builder.lacking():
        pytest.skip(reason)
    alike = [target for target in map(load_target, target_names()) if builder.builds_for(target) is None]
    alike = [target for target in alike if device and target.compute_capability == device.compute_capability]
    if not alike:
        pytest.skip(f"{name} builds nothing for {device}")
    model = to_fp16(make_encoder(cut="topk", blocks=3))
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(1, 17, 32)).astype(np.float32)} for _ in range(8)]
    trial = Trial(feeds=feeds, reference=ir.to_proto(model).SerializeToString())
    built = CheckedBuilder(builder=builder, trial=trial).build(trial.reference, alike[0], tmp_path / "e", name="m")
    assert built.error is None
    assert built.check is not None
    assert built.check.passed
    for _ in range(2):  # the second time with kernels from the cache
        with open_engine(Path(built.path)) as runner:
            assert 0 < runner.time(feeds[0], warm_up=10, samples=20).p50_ms < 1000
