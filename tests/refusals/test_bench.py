"""What `bench` does not measure: message and hint word for word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeprune
from edgeprune.compiler.timing.engines import target_like
from edgeprune.compiler.timing.runners import choose_runtimes
from edgeprune.core.errors import DataError, ModelError, PlanError, TargetError
from edgeprune_targets.builders.driver import Device

MODEL = Path(__file__).resolve().parents[2] / "demo" / "digits_vit.onnx"
QUICK = {"runtimes": ("onnxruntime-cpu",), "rounds": 6, "warm_up": 1}
H100 = Device(name="NVIDIA H100 80GB HBM3", compute_capability="9.0", driver="12.6")


def message_of(kind: type[edgeprune.EdgepruneError], *models: Path, **given) -> tuple[str, str]:
    with pytest.raises(kind) as caught:
        edgeprune.bench(*models, **{**QUICK, **given})
    return caught.value.message, caught.value.hint


GIVE = "give an ONNX file, or a folder that `edgeprune compile` wrote; `edgeprune export` makes the former"


def test_what_is_no_model_word_for_word(tmp_path):
    assert message_of(ModelError, tmp_path / "no") == (f"no such model or folder: {tmp_path / 'no'}", GIVE)
    assert message_of(ModelError, MODEL, tmp_path / "no") == (f"no such model or folder: {tmp_path / 'no'}", GIVE)
    (tmp_path / "empty").mkdir()
    assert message_of(ModelError, tmp_path / "empty") == (f"no model.onnx in the folder {tmp_path / 'empty'}", GIVE)
    (tmp_path / "text.onnx").write_text("no model at all")
    message, hint = message_of(ModelError, tmp_path / "text.onnx")
    assert message.startswith(f"not a readable ONNX file: {tmp_path / 'text.onnx'} (")
    assert hint == "the file is truncated, or of another format; export it again"
    (tmp_path / "empty" / "model.onnx").write_bytes(MODEL.read_bytes())
    assert message_of(ModelError, tmp_path / "empty") == (
        f"no report.json in the folder {tmp_path / 'empty'}, so its dense model is not known",
        f"name it: edgeprune bench DENSE {tmp_path / 'empty'}",
    )


def test_models_of_two_interfaces_word_for_word(tmp_path):
    other = onnx.load(MODEL)
    other.graph.output[0].name = "classes"
    other.graph.node[-1].output[0] = "classes"
    onnx.save(other, tmp_path / "outputs.onnx")
    assert message_of(ModelError, MODEL, tmp_path / "outputs.onnx") == (
        f"the models have different outputs: {MODEL} logits, {tmp_path / 'outputs.onnx'} classes",
        "time two models of one interface",
    )
    other = onnx.load(MODEL)
    other.graph.input[0].name = "pixels"
    for node in other.graph.node:
        node.input[:] = ["pixels" if name == "image" else name for name in node.input]
    theirs = tmp_path / "inputs.onnx"
    onnx.save(other, theirs)
    assert message_of(ModelError, MODEL, theirs) == (
        f"the models take different inputs: {MODEL} image float32 1x1x32x32, {theirs} pixels float32 1x1x32x32",
        "time two models of one interface; --input and --batch close open shapes",
    )


def test_runtimes_that_do_not_exist_or_run_here_word_for_word(monkeypatch):
    assert message_of(TargetError, MODEL, runtimes=["onnxruntime-cdua"]) == (
        "no runtime is named `onnxruntime-cdua`",
        "did you mean `onnxruntime-cuda`?",
    )
    assert message_of(TargetError, MODEL, runtimes=["qqq"]) == (
        "no runtime is named `qqq`",
        "there are onnxruntime-cpu, onnxruntime-cuda, onnxruntime-tensorrt, tensorrt, tensorrt-rtx",
    )
    monkeypatch.setattr("edgeprune_targets.builders.driver.find_device", lambda: None)
    for name in ("onnxruntime-cuda", "tensorrt", "tensorrt-rtx"):
        assert message_of(TargetError, MODEL, runtimes=["onnxruntime-cpu", name]) == (
            f"`{name}` does not run here: no NVIDIA device here",
            "run this on the device, or leave the runtime out",
        )


def test_with_a_device_what_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("edgeprune_targets.builders.driver.find_device", lambda: H100)
    monkeypatch.setattr("edgeprune.compiler.timing.runners.available_providers", lambda: ("CPUExecutionProvider",))
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    assert message_of(TargetError, MODEL, runtimes=["onnxruntime-cuda"]) == (
        "`onnxruntime-cuda` does not run here: this ONNX Runtime has no CUDAExecutionProvider",
        'pip uninstall onnxruntime, then pip install "edgeprune[gpu]"',
    )
    message, hint = message_of(TargetError, MODEL, runtimes=["tensorrt-rtx"])
    assert message == "`tensorrt-rtx` does not run here: TensorRT-RTX is not installed"
    assert hint == 'pip install "edgeprune[rtx]"'
    choice = choose_runtimes(())
    assert [runtime.name for runtime in choice.runtimes] == ["onnxruntime-cpu"]
    assert set(choice.lacking) == {"onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"}


def test_counts_out_of_their_range_word_for_word():
    assert message_of(PlanError, MODEL, rounds=5) == (
        "`rounds` is 5, expected 6 or more",
        "fewer give no 95 % interval; leave it out for the default",
    )
    assert message_of(PlanError, MODEL, warm_up=0) == (
        "`warm_up` is 0, expected 1 or more",
        "the first run pays for memory; leave it out for the default",
    )


def test_data_that_does_not_fit_is_an_error_before_anything_runs(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8), np.float32))
    message, _ = message_of(DataError, MODEL, options=edgeprune.Options(data=tmp_path / "x.npy"))
    assert "expected Nx1x32x32 for input `image`" in message


def test_a_device_that_no_profile_is_like_word_for_word():
    with pytest.raises(TargetError) as caught:
        target_like(Device(name="NVIDIA Future", compute_capability="99.0", driver="20.0"))
    assert caught.value.message == "no profile has the compute capability 99.0 of NVIDIA Future"
