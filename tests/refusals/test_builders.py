"""What cannot be built or run on this machine: message and hint, word for word."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from edgeprune.core.errors import TargetError
from edgeprune_targets.builders import builder_for, driver, make_builder, registry, tensorrt
from edgeprune_targets.builders.driver import Device
from edgeprune_targets.builders.manifest import read_manifest
from edgeprune_targets.builders.onnx_runtime import OrtBuilder
from edgeprune_targets.profiles import load_target

ORIN = load_target("jetson-agx-orin-64gb")


@pytest.fixture(autouse=True)
def _no_device(monkeypatch):
    monkeypatch.setattr(tensorrt, "find_device", lambda: None)


def test_no_tensorrt(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert make_builder("tensorrt").lacking() == (
        'TensorRT is not installed: pip install "edgeprune[tensorrt]"; on a Jetson run deploy/build.sh'
    )
    assert make_builder("tensorrt-rtx").lacking() == 'TensorRT-RTX is not installed: pip install "edgeprune[rtx]"'


def test_tensorrt_without_a_device(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: "found")
    assert make_builder("tensorrt").lacking() == (
        "TensorRT builds on the device only, and no NVIDIA device is here: run deploy/build.sh there"
    )


def test_a_device_of_another_kind(monkeypatch):
    device = Device(name="NVIDIA L4", compute_capability="8.9", driver="12.8")
    monkeypatch.setattr(tensorrt, "find_device", lambda: device)
    assert make_builder("tensorrt").builds_for(ORIN) == (
        "TensorRT builds for the GPU of this machine, NVIDIA L4 with compute capability 8.9, expected 8.7: "
        "copy deploy/ to the device and run build.sh"
    )


def test_tensorrt_rtx_for_a_jetson():
    assert make_builder("tensorrt-rtx").builds_for(ORIN) == (
        "TensorRT-RTX does not build for compute capability 8.7, only for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1: "
        "build on the device with deploy/build.sh"
    )


def test_providers_that_onnxruntime_lacks(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "__version__", "1.31.1")
    assert OrtBuilder().lacking() is None
    assert OrtBuilder(provider="cuda").lacking() == (
        "ONNX Runtime 1.31.1 here has no CUDAExecutionProvider, it has CPUExecutionProvider: "
        'pip install "edgeprune[gpu]" in place of onnxruntime'
    )
    assert OrtBuilder(provider="tensorrt").lacking() == (
        "ONNX Runtime 1.31.1 here has no TensorrtExecutionProvider, it has CPUExecutionProvider: "
        'pip install "edgeprune[gpu]" in place of onnxruntime'
    )


def test_no_builder_for_a_target():
    with pytest.raises(TargetError) as caught:
        builder_for(replace(ORIN, builders=("tensorrt",)))
    assert caught.value.message == (
        "no engine for jetson-agx-orin-64gb can be built on this machine: "
        "TensorRT builds on the device itself: copy deploy/ there and run build.sh"
    )
    assert caught.value.hint == "copy deploy/ to the device and run build.sh there"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("tensorrt-rtz", "did you mean `tensorrt-rtx`?"), ("nvcc", "known: onnxruntime, tensorrt, tensorrt-rtx")],
)
def test_an_unknown_builder(name, hint):
    with pytest.raises(TargetError) as caught:
        make_builder(name)
    assert (caught.value.message, caught.value.hint) == (f"unknown builder `{name}`", hint)


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        (
            None,
            "cannot read the engine manifest {path}: No such file or directory",
            "keep the .json file that was written beside the engine with it",
        ),
        (
            "{",
            "the engine manifest {path} cannot be read: Input data was truncated",
            "build the engine again with this version of edgeprune",
        ),
        (
            json.dumps({"schema": 1}),
            "the engine manifest {path} has schema 1, expected 2",
            "build the engine again with this version of edgeprune",
        ),
        (
            "[]",
            "the engine manifest {path} has schema None, expected 2",
            "build the engine again with this version of edgeprune",
        ),
        (
            json.dumps({"schema": 2, "edgeprune": 1}),
            "the engine manifest {path} cannot be read: Expected `str`, got `int` - at `$.edgeprune`",
            "build the engine again with this version of edgeprune",
        ),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, text: str | None, says: str, hint: str):
    path = tmp_path / "m.engine.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(TargetError) as caught:
        read_manifest(tmp_path / "m.engine")
    assert (caught.value.message, caught.value.hint) == (says.format(path=path), hint)


def test_no_driver(monkeypatch):
    monkeypatch.setattr(driver.sys, "platform", "linux")

    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(driver.ctypes, "CDLL", absent)
    with pytest.raises(TargetError) as caught:
        driver.Driver()
    assert caught.value.message == "no NVIDIA device here: the driver's library libcuda.so.1 is absent"
    assert caught.value.hint == "run it on a machine with an NVIDIA device and its driver"


@pytest.mark.parametrize(
    ("name", "value", "message", "hint"),
    [
        (
            "mine",
            "gone:Mine",
            "plug-in `mine` of edgeprune.builders (gone:Mine) failed: ModuleNotFoundError: No module named 'gone'",
            "repair or uninstall the package that brings `mine`",
        ),
        (
            "tensorrt",
            "mine:Mine",
            "two plug-ins of `edgeprune.builders` are named `tensorrt`: one is mine:Mine",
            "uninstall one of the two packages",
        ),
    ],
)
def test_a_plug_in_that_is_broken_or_in_the_way(monkeypatch, name, value, message, hint):
    point = EntryPoint(name=name, value=value, group=registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.GROUP else [])
    registry.builders.cache_clear()
    with pytest.raises(TargetError) as caught:
        make_builder("tensorrt-rtx")
    assert (caught.value.message, caught.value.hint) == (message, hint)
    registry.builders.cache_clear()
