"""Execution providers and crashes of ONNX Runtime, against a stand-in in the child; the CPU for real is elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnxruntime
import pytest

from edgeprune_targets.builders.manifest import read_manifest
from edgeprune_targets.builders.onnx_runtime import PROVIDERS, OrtBuilder
from edgeprune_targets.profiles import load_target

TARGET = load_target("rtx-3090")


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "fake_onnxruntime"), prepend=os.pathsep)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))


@pytest.mark.parametrize(
    ("crashes", "level"),
    [("", "all"), ("ORT_ENABLE_ALL", "extended"), ("ORT_ENABLE_ALL ORT_ENABLE_EXTENDED", "basic")],
)
def test_a_crash_is_answered_by_a_lower_level(tmp_path, monkeypatch, crashes, level):
    monkeypatch.setenv("FAKE_ORT_CRASHES", crashes)
    (built,) = OrtBuilder().build(b"onnx", [TARGET], tmp_path, name="m")
    assert json.loads(Path(built.path).read_text(encoding="utf-8"))["level"] == f"ORT_ENABLE_{level.upper()}"
    manifest = read_manifest(Path(built.path))
    assert manifest.options == {"provider": "CPUExecutionProvider", "level": level}
    assert manifest.inputs[0].shape == (-1, 4)


def test_a_crash_at_every_level_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_ORT_CRASHES", "ORT_ENABLE_ALL ORT_ENABLE_EXTENDED ORT_ENABLE_BASIC")
    (built,) = OrtBuilder().build(b"onnx", [TARGET], tmp_path, name="m")
    assert built.error == "ONNX Runtime was ended by SIGSEGV: it said nothing"
    assert list(tmp_path.iterdir()) == []


def test_cuda_is_asked_with_its_options_and_they_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_ORT_HAS", "CUDAExecutionProvider CPUExecutionProvider")
    builder = OrtBuilder(provider="cuda", provider_options={"use_tf32": "0"})
    (built,) = builder.build(b"onnx", [TARGET], tmp_path, name="m")
    made = json.loads(Path(built.path).read_text(encoding="utf-8"))
    assert made["providers"] == [["CUDAExecutionProvider", {"use_tf32": "0"}]]
    assert Path(built.path).name == "m.cuda.onnx"
    assert read_manifest(Path(built.path)).options["use_tf32"] == "0"


def test_tensorrt_leaves_its_engine_inside_the_model(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_ORT_HAS", "TensorrtExecutionProvider CUDAExecutionProvider")
    (built,) = OrtBuilder(provider="tensorrt").build(b"onnx", [TARGET], tmp_path, name="m")
    made = json.loads(Path(built.path).read_text(encoding="utf-8"))
    assert [name for name, _ in made["providers"]] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert made["entries"] | {"ep.context_file_path": ""} == {
        "ep.context_enable": "1",
        "ep.context_embed_mode": "1",
        "ep.context_file_path": "",
    }


def test_a_provider_that_does_not_load_is_no_cpu_model(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_ORT_HAS", "CPUExecutionProvider")
    (built,) = OrtBuilder(provider="cuda").build(b"onnx", [TARGET], tmp_path, name="m")
    assert built.error == (
        "ONNX Runtime could not load CUDAExecutionProvider and took CPUExecutionProvider: check that CUDA, cuDNN and "
        "TensorRT of the versions that onnxruntime-gpu names are installed"
    )
    assert list(tmp_path.iterdir()) == []
