"""The commands, run on the demo's model: what is written, what is printed, and the exit code of each end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeprune.cli.main import run
from edgeprune.core.plan import plan_from_json
from edgeprune.report import Inspection, Report, ValidationReport, from_json

DEMO = Path(__file__).resolve().parents[2] / "demo"
MODEL, DATA = str(DEMO / "digits_vit.onnx"), str(DEMO / "digits_test.npz")


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def compile_demo(out: Path, *words: str) -> int:
    return run(["compile", MODEL, "--strategy", "cls-topk", "-o", str(out), *words])


@pytest.fixture
def compiled(out, capfd) -> Path:
    assert compile_demo(out, "--keep", "0.6") == 0, capfd.readouterr().err
    capfd.readouterr()
    return out


def test_compile_writes_the_folder_and_shows_the_gist(out, capfd):
    assert compile_demo(out, "--keep", "0.6") == 0
    captured = capfd.readouterr()
    assert {"model.onnx", "plan.json", "report.json"} <= {path.name for path in out.iterdir()}
    assert "tokens per block" in captured.out
    assert "not measured: no data" in captured.out
    assert captured.err == ""


def test_compile_as_json_prints_the_report_and_nothing_else(out, capfd):
    assert compile_demo(out, "--keep", "0.6", "--json") == 0
    printed = from_json(capfd.readouterr().out.encode(), Report)
    assert printed == from_json((out / "report.json").read_bytes(), Report)
    assert printed.command[:2] == ("compile", MODEL)
    assert printed.budget.kind == "keep"
    assert printed.budget.keep == pytest.approx(0.6, rel=0.02)  # the 2 %


def test_a_budget_in_macs_is_met(out, capfd):
    assert compile_demo(out, "--macs", "0.7", "--json") == 0
    report = from_json(capfd.readouterr().out.encode(), Report)
    assert report.pruned.macs / report.model.macs == pytest.approx(0.7, rel=0.02)  # the 2 %


def test_plan_decides_what_compile_decides(compiled, tmp_path, capfd):
    assert run(["plan", MODEL, "--strategy", "cls-topk", "--keep", "0.6"]) == 0
    printed = capfd.readouterr().out.encode()
    assert plan_from_json(printed) == plan_from_json((compiled / "plan.json").read_bytes())
    file = tmp_path / "plan.json"
    assert run(["plan", MODEL, "--strategy", "cls-topk", "--keep", "0.6", "-o", str(file)]) == 0
    assert file.read_bytes() == printed
    assert capfd.readouterr().out == ""


def test_a_plan_is_not_overwritten_unasked(tmp_path, capfd):
    file = tmp_path / "plan.json"
    file.write_bytes(b"mine")
    words = ["plan", MODEL, "--strategy", "cls-topk", "--keep", "0.6", "-o", str(file)]
    assert run(words) == 1
    assert f"the output {file} exists" in capfd.readouterr().err
    assert file.read_bytes() == b"mine"
    assert run([*words, "--force"]) == 0
    assert file.read_bytes() != b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_plan_reproduces_the_model_to_the_byte(compiled, tmp_path):
    again = tmp_path / "again"
    assert run(["compile", MODEL, "--plan", str(compiled / "plan.json"), "-o", str(again)]) == 0
    assert (again / "model.onnx").read_bytes() == (compiled / "model.onnx").read_bytes()


def test_an_existing_folder_is_not_overwritten_unasked(compiled, capfd):
    before = (compiled / "model.onnx").read_bytes()
    assert compile_demo(compiled, "--keep", "0.8") == 1
    assert "--force" in capfd.readouterr().err
    assert (compiled / "model.onnx").read_bytes() == before
    assert compile_demo(compiled, "--keep", "0.8", "--force") == 0
    assert (compiled / "model.onnx").read_bytes() != before


def test_inspect_tells_the_blocks(capfd):
    assert run(["inspect", MODEL, "--json"]) == 0
    inspection = from_json(capfd.readouterr().out.encode(), Inspection)
    assert (len(inspection.blocks), inspection.model.tokens, inspection.model.prefix_tokens) == (6, 65, 1)
    assert {(block.heads, block.head_size, block.width, block.mlp_width) for block in inspection.blocks} == {
        (4, 16, 64, 256)
    }
    assert {fit.name for fit in inspection.strategies if fit.refused is None} >= {"cls-topk", "tome", "prune-merge"}
    assert run(["inspect", MODEL]) == 0
    assert "6 blocks, 65 tokens of which 1 prefix" in " ".join(capfd.readouterr().out.split())


def test_a_model_that_fails_its_proof_ends_in_an_error(compiled, capfd):
    path = compiled / "model.onnx"
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda value: len(value.raw_data))
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * 1.5).tobytes()
    onnx.save(model, path)
    assert run(["validate", MODEL, str(path), "--data", DATA, "--samples", "8", "--json"]) == 4
    captured = capfd.readouterr()
    assert from_json(captured.out.encode(), ValidationReport).validation.drift
    assert captured.err.startswith("error: the cuts are NOT the independent reference's: error ")
    assert "hint: do not deploy it" in captured.err


def test_validate_measures_drift_on_data(compiled, capfd):
    words = ["validate", MODEL, str(compiled / "model.onnx"), "--data", DATA, "--samples", "8", "--json"]
    assert run(words) == 0
    report = from_json(capfd.readouterr().out.encode(), ValidationReport)
    assert report.validation.samples == 8
    assert report.validation.drift["logits"].cosine > 0.5
    assert report.validation.exactness is not None
    assert report.validation.exactness.passed


def test_a_limit_that_is_passed_is_3(compiled, capfd):
    words = ["validate", MODEL, str(compiled / "model.onnx"), "--data", DATA, "--samples", "8"]
    assert run([*words, "--max-drift", "kl=1e-9"]) == 3
    assert "kl" in capfd.readouterr().err
    assert run([*words, "--max-drift", "kl=100"]) == 0


def test_compile_past_a_limit_is_3(out, capfd):
    assert compile_demo(out, "--keep", "0.6", "--data", DATA, "--samples", "8", "--max-drift", "kl=1e-9") == 3
    assert "kl" in capfd.readouterr().err


@pytest.mark.parametrize("keep", ["0", "-1", "1.5", "nan"])
def test_a_share_outside_its_range_is_invalid(keep, out, capfd):
    assert compile_demo(out, "--keep", keep) == 1
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert "\n\nhint: " in err
    assert not out.exists()


@pytest.mark.parametrize("content", [None, b"", b"no model at all", b"\x08\x07"])
def test_what_is_no_model_is_invalid_input(content, tmp_path, out, capfd):
    file = tmp_path / "model.onnx"
    if content is not None:
        file.write_bytes(content)
    assert run(["compile", str(file), "--keep", "0.6", "-o", str(out)]) == 1
    captured = capfd.readouterr()
    assert captured.err.startswith("error: ")
    assert "\n\nhint: " in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not out.exists()


def test_a_truncated_model_is_invalid_input(tmp_path, out, capfd):
    file = tmp_path / "half.onnx"
    file.write_bytes(Path(MODEL).read_bytes()[:100_000])
    assert run(["compile", str(file), "--keep", "0.6", "-o", str(out)]) == 1
    assert capfd.readouterr().err.startswith("error: ")
    assert not out.exists()


def test_a_plan_of_another_model_is_refused(compiled, tmp_path, capfd):
    plan = json.loads((compiled / "plan.json").read_bytes()) | {"model_sha256": "0" * 64}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(plan))
    assert run(["compile", MODEL, "--plan", str(other), "-o", str(tmp_path / "again")]) == 1
    assert "sha256" in capfd.readouterr().err
    assert not (tmp_path / "again").exists()


def test_an_unknown_strategy_or_target_is_invalid(out, capfd):
    assert run(["compile", MODEL, "--keep", "0.6", "--strategy", "no-such", "-o", str(out)]) == 1
    assert "no-such" in capfd.readouterr().err
    assert compile_demo(out, "--keep", "0.6", "--target", "no-such") == 1
    assert "no-such" in capfd.readouterr().err
    assert not out.exists()


def test_export_writes_a_checked_model(tmp_path, capfd):
    pytest.importorskip("torch", reason="needs the extra torch")
    made = tmp_path / "tiny.onnx"
    words = ["export", "timm:vit_tiny_patch16_224?depth=1&img_size=32", str(made), "--json"]
    assert run(words) == 0, capfd.readouterr().err
    told = json.loads(capfd.readouterr().out)
    assert told["exporter"] == "dynamo"
    assert told["max_abs_error"] < 1e-4  # fp32 rounding of one block, logits of order 1
    assert made.stat().st_size > 0
