"""`edgeprune latency`: modelled numbers that are never shown as measured, for models that `compile` refuses too."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from edgeprune.cli.main import run

MODEL = str(Path(__file__).resolve().parents[2] / "demo" / "digits_vit.onnx")
PLAIN = """<ir_version: 8, opset_import: ["": 17]> g (float[1,64,256] x) => (float[1,64,512] y)
    <float[256,512] w = {1.0}> { [product] y = MatMul(x, w) }"""
OPEN = '<ir_version: 8, opset_import: ["": 17]> g (float[1,n,8] x) => (float[1,n,8] y) { y = Relu(x) }'


@pytest.fixture
def save(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "plain.onnx"
        text = text.replace("= {1.0}", "= {" + ", ".join(["1.0"] * 256 * 512) + "}")
        path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
        return str(path)

    return write


def test_a_line_a_target_and_the_word_modelled(capfd):
    assert run(["latency", MODEL, "--targets", "rtx-4090,jetson-orin-nano-8gb", "-t", "t4"]) == 0
    out = capfd.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    names = [line[0] for line in lines if line and line[0] in {"rtx-4090", "jetson-orin-nano-8gb", "t4"}]
    assert names == ["rtx-4090", "jetson-orin-nano-8gb", "t4"]
    assert "Latency, modelled (fp16)" in out
    assert "modelled, not measured" in out
    assert "rtx-4090: no TensorRT timing of this architecture in the fit: interval widened" in " ".join(out.split())


def test_json_says_modelled_and_the_interval_holds_the_median(capfd):
    assert run(["latency", MODEL, "--targets", "t4,rtx-4090", "--precision", "fp32", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["kind"], found["precision"], found["compared"]) == ("modelled", "fp32", "")
    for row in found["rows"]:
        one = row["estimate"]
        assert one["interval"]["low"] < one["p50_ms"] < one["interval"]["high"]
        assert sum(part["ms"] for part in one["blocks"]) == pytest.approx(one["p50_ms"])
        assert sum(one["bound"].values()) == pytest.approx(1)
        assert row["compared"] is None


def test_a_pruned_model_has_a_speedup_with_an_interval(tmp_path, capfd):
    words = ["compile", MODEL, "--keep", "0.5", "-s", "cls-topk", "--cuts", "2", "-o", str(tmp_path / "out"), "-q"]
    assert run(words) == 0
    capfd.readouterr()
    pruned = str(tmp_path / "out" / "model.onnx")
    assert run(["latency", MODEL, "-t", "t4", "--compare", pruned, "--blocks", "--json"]) == 0
    gain = json.loads(capfd.readouterr().out)["rows"][0]["compared"]
    assert gain["speedup_interval"]["low"] < gain["speedup"] < gain["speedup_interval"]["high"]
    assert gain["estimate"]["selection_ms"] > 0
    assert run(["latency", MODEL, "-t", "t4", "--compare", pruned, "--blocks"]) == 0
    out = capfd.readouterr().out
    assert "Speed-up, modelled (fp16)" in out
    assert "Blocks, modelled ms" in out


def test_a_model_without_tokens_is_modelled_and_its_kind_is_unknown(save, capfd):
    assert run(["latency", save(PLAIN), "-t", "t4"]) == 0
    assert "no measured model of this kind: interval widened" in " ".join(capfd.readouterr().out.split())


def test_an_unknown_size_has_to_be_declared(save, capfd):
    path = save(OPEN)
    assert run(["latency", path, "-t", "t4"]) == 1
    assert "declare its shape: --input x:" in capfd.readouterr().err
    assert run(["latency", path, "-t", "t4", "--input", "x:1x4x8"]) == 0


def test_an_unknown_target_is_named(capfd):
    assert run(["latency", MODEL, "-t", "rtx-4091"]) == 1
    assert "did you mean rtx-4090" in capfd.readouterr().err
