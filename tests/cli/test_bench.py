"""`edgeprune bench` as it is typed: what is printed, what is written, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from edgeprune.cli.main import run
from edgeprune.report import BenchReport, from_json, to_json
from edgeprune.report.schema import bench_schema

MODEL = str(Path(__file__).resolve().parents[2] / "demo" / "digits_vit.onnx")
QUICK = ("--rounds", "6", "--warm-up", "1", "--threads", "1", "--runtime", "onnxruntime-cpu")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("bench") / "out")
    assert run(["compile", MODEL, "--strategy", "uniform", "--cuts", "1", "--keep", "0.5", "-o", out, "-q"]) == 0
    return out


def test_a_folder_alone_is_enough_and_the_gain_stands_first(compiled, capfd):
    assert run(["bench", compiled, *QUICK]) == 0
    captured = capfd.readouterr()
    first, *rest = captured.out.splitlines()
    assert first.startswith("onnxruntime-cpu  ")
    assert "x (80 %: " in first
    assert ", measured with ONNX Runtime " in first
    text = " ".join(" ".join(rest).split())
    assert "Measured latencies runtime model MACs p50 ms p90 ms p99 ms runs" in text
    assert "fed random numbers (seed 0) as image 1x1x32x32; 6 rounds, each model twice a round, in turn" in text
    assert captured.err == ""


def test_json_goes_to_stdout_and_to_a_file_alike(compiled, tmp_path, capfd):
    file = tmp_path / "bench.json"
    assert run(["bench", MODEL, compiled, *QUICK, "--json", "-o", str(file)]) == 0
    printed = capfd.readouterr().out.encode()
    assert file.read_bytes() == printed
    report = from_json(printed, BenchReport)
    assert report.command[:2] == ("bench", MODEL)
    assert report.rows[0].ratio is not None
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_a_file_in_the_way_is_kept_and_nothing_is_measured(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("edgeprune.api.bench", lambda *_, **__: pytest.fail("measured for nothing"))
    file = tmp_path / "bench.json"
    file.write_text("mine")
    assert run(["bench", MODEL, *QUICK, "-o", str(file)]) == 1
    assert f"error: the output {file} exists\n\nhint: give --force to overwrite it" in capfd.readouterr().err
    assert file.read_text() == "mine"
    assert run(["bench", MODEL, *QUICK, "-o", str(tmp_path / "no" / "b.json")]) == 1
    assert f"error: no such folder: {tmp_path / 'no'}\n\nhint: make it, or give another name" in capfd.readouterr().err


def test_nothing_that_was_measured_is_1_and_the_reason_is_shown(capfd, monkeypatch):
    from edgeprune.compiler.timing.runners import OnnxRuntime
    from edgeprune.core.errors import TargetError

    def fails(*_):
        raise TargetError("no memory left", hint="close other programs")

    monkeypatch.setattr(OnnxRuntime, "open", fails)
    assert run(["bench", MODEL, *QUICK]) == 1
    assert "onnxruntime-cpu  not measured: no memory left (hint: close other programs)" in capfd.readouterr().out


def test_runtimes_may_be_given_with_commas(monkeypatch):
    asked = []
    monkeypatch.setattr("edgeprune.api.bench", lambda *_, runtimes, **__: asked.extend(runtimes) or pytest.skip())
    words = ["bench", MODEL, "-r", "tensorrt,tensorrt-rtx", "-r", "onnxruntime-cpu"]
    with pytest.raises(pytest.skip.Exception):
        run(words)
    assert asked == ["tensorrt", "tensorrt-rtx", "onnxruntime-cpu"]


def test_an_unknown_runtime_is_1_with_the_nearest_name(capfd):
    assert run(["bench", MODEL, "-r", "tensort"]) == 1
    assert capfd.readouterr().err == "error: no runtime is named `tensort`\n\nhint: did you mean `tensorrt`?\n"


def test_what_the_device_said_is_shown_with_its_units(capfd, monkeypatch):
    from edgeprune_targets.readings import Reading

    values = {"sm_clock_mhz": 1980.0, "power_w": 412.5, "temperature_c": 54.0, "gr3d_percent": 99.0}
    monkeypatch.setattr("edgeprune_targets.processor.ProcessorClock.read", lambda _: Reading(values, ("power cap",)))
    assert run(["bench", MODEL, *QUICK]) == 0
    shown = " ".join(capfd.readouterr().out.split())
    for words in ("sm clock, MHz 1980", "power, W 412.5", "temperature, C 54", "gr3d, % 99"):
        assert words in shown
    assert "warning onnxruntime-cpu: the device ran below its clock: power cap" in shown


def test_the_json_fits_the_committed_schema_which_is_that_of_the_types(compiled, project, capfd):
    committed = (project / "edgeprune" / "report" / "bench.schema.json").read_bytes()
    assert committed == to_json(bench_schema()), "run `make schema`"
    validator = jsonschema.Draft202012Validator(json.loads(committed))
    assert run(["bench", MODEL, compiled, *QUICK, "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    validator.validate(printed)
    assert not validator.is_valid(printed | {"schema": 2})
    assert not validator.is_valid({name: value for name, value in printed.items() if name != "rows"})
