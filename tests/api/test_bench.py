"""`bench` on the demo's model and what was compiled from it, in ONNX Runtime on this machine. No time is asserted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeprune
from edgeprune.compiler.timing.benching import Measurement, measure
from edgeprune.compiler.timing.contenders import feeds_for, open_contenders
from edgeprune.compiler.timing.engines import EngineRuntime
from edgeprune.compiler.timing.lacks import Lack
from edgeprune.compiler.timing.runners import Choice, OnnxRuntime, runtimes
from edgeprune.core.errors import PlanError, TargetError
from edgeprune.core.progress import SILENT
from edgeprune.report import BenchReport, from_json, to_json
from edgeprune_calibration.runner import Runner
from edgeprune_targets.builders.driver import Device

DEMO = Path(__file__).resolve().parents[2] / "demo"
MODEL, DATA = DEMO / "digits_vit.onnx", DEMO / "digits_test.npz"
CPU = ("onnxruntime-cpu",)
QUICK = {"runtimes": CPU, "rounds": 6, "warm_up": 1}
RTX = Device(name="NVIDIA GeForce RTX 4090", compute_capability="8.9", driver="12.8")
H100 = Device(name="NVIDIA H100 80GB HBM3", compute_capability="9.0", driver="12.6")


def options(**given) -> edgeprune.Options:
    return edgeprune.Options(**{"threads": 1, **given})


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "out"
    told = options(strategy="cls-topk", cuts=2, command=("compile", str(MODEL), "--keep", "0.5", "-o", str(out)))
    edgeprune.compile(MODEL, keep=0.5, out=out, options=told)
    return out


@pytest.fixture(scope="module")
def pair(compiled) -> BenchReport:
    return edgeprune.bench(MODEL, compiled, **QUICK, options=options(data=DATA, samples=3))


def test_a_pair_is_measured_with_its_ratio_and_both_are_right(pair):
    assert [model.role for model in pair.models] == ["dense", "pruned"]
    assert pair.models[0].macs > pair.models[1].macs
    (row,) = pair.rows
    assert (row.runtime, row.precision, row.error) == ("onnxruntime-cpu", "fp32", None)
    assert row.version.startswith("ONNX Runtime 1.")
    assert [model.timing.samples for model in row.models] == [12, 12]
    for model in row.models:
        assert 0 < model.timing.p50_ms <= model.timing.p90_ms <= model.timing.p99_ms
        assert model.check.passed
        assert model.check.relative_error < 1e-5  # fp32 rounding of six blocks
        assert model.check.samples == 2
    assert row.ratio.rounds == 6
    assert row.ratio.low_95 <= row.ratio.low_80 <= row.ratio.median <= row.ratio.high_80 <= row.ratio.high_95
    assert row.warm_up >= 10
    assert pair.data == f"3 samples of {DATA}"
    assert pair.inputs == {"image": (1, 1, 32, 32)}


def test_a_report_can_take_the_pair_as_a_row_of_its_own(pair):
    (latency,), (row,) = pair.latency, pair.rows
    assert (latency.target, latency.kind, latency.runtime) == ("onnxruntime-cpu", "measured", row.version)
    assert (latency.dense_timing, latency.pruned_timing) == tuple(model.timing for model in row.models)
    assert (latency.dense_p50_ms, latency.speedup) == (row.models[0].timing.p50_ms, row.ratio.median)
    assert latency.device == pair.machine.processor
    assert latency.dense_interval_ms is None


def test_json_comes_back_as_it_was(pair):
    data = to_json(pair)
    assert data.startswith(b'{\n  "schema": 1,\n  "models": [')
    assert from_json(data, BenchReport) == pair


def test_a_folder_knows_its_dense_model_and_another_file_there_is_not_it(compiled, tmp_path, monkeypatch):
    alone = edgeprune.bench(compiled, **QUICK, options=options())
    assert [Path(model.name) for model in alone.models] == [MODEL, compiled / "model.onnx"]
    assert alone.data == "random numbers (seed 0)"
    monkeypatch.chdir(tmp_path)
    report = (compiled / "report.json").read_text().replace(str(MODEL), "here.onnx")
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "report.json").write_text(report)
    (tmp_path / "moved" / "model.onnx").write_bytes((compiled / "model.onnx").read_bytes())
    (tmp_path / "here.onnx").write_bytes((compiled / "model.onnx").read_bytes())
    with pytest.raises(PlanError) as caught:
        edgeprune.bench(Path("moved"), **QUICK)
    sha = alone.models[0].sha256[:12]
    assert caught.value.message == f"the dense model of moved is not where it was: sha256 {sha}"
    assert caught.value.hint == "name it: edgeprune bench DENSE moved"


def test_one_model_has_times_and_no_ratio():
    report = edgeprune.bench(MODEL, **QUICK, options=options(seed=3))
    (row,) = report.rows
    assert ([model.role for model in row.models], row.ratio, report.latency) == (["model"], None, ())
    assert report.data == "random numbers (seed 3)"


def test_a_model_with_open_shapes_is_timed_at_those_of_the_pruned_one(compiled, tmp_path):
    model = onnx.load(MODEL)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, tmp_path / "open.onnx")
    report = edgeprune.bench(tmp_path / "open.onnx", compiled, **QUICK, options=options())
    assert report.inputs == {"image": (1, 1, 32, 32)}
    assert report.rows[0].error is None


def test_fp16_is_judged_by_what_fp16_does_to_the_graph(compiled):
    report = edgeprune.bench(MODEL, compiled, **QUICK, options=options(precision="fp16", data=DATA))
    (row,) = report.rows
    assert row.precision == "fp16"
    for model in row.models:
        assert 1e-5 < model.check.relative_error < 0.02  # it did compute in fp16


class Wrong:
    """A session that answers at once, and wrongly."""

    def __init__(self, runner: Runner, change) -> None:
        self.runner, self.change = runner, change

    def run(self, feeds):
        return {name: self.change(array) for name, array in self.runner.run(feeds).items()}

    def timed(self, _):
        raise AssertionError("a wrong answer was timed")

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("change", "error"),
    [(lambda x: x * 1.3, "0.3"), (lambda x: np.full_like(x, np.nan), "inf"), (lambda x: x[:, ::-1], None)],
    ids=["scaled", "NaN", "reversed"],
)
def test_a_fast_wrong_answer_is_not_timed(change, error, compiled, monkeypatch):
    monkeypatch.setattr(OnnxRuntime, "open", lambda _, model, *__: Wrong(Runner(model, threads=1), change))
    (row,) = edgeprune.bench(MODEL, compiled, **QUICK, options=options(data=DATA)).rows
    assert (row.models, row.ratio) == ((), None)
    assert row.error.startswith("its outputs of the dense model are wrong, and a fast wrong answer is not timed: rel")
    assert error is None or f"relative error {error}, expected at most about 0.02" in row.error


def test_a_runtime_that_fails_leaves_the_others(monkeypatch):
    def fails(*_):
        raise TargetError("no memory left on the device", hint="close other programs")

    monkeypatch.setattr(EngineRuntime, "open", fails)
    chosen = runtimes()
    choice = Choice(
        (chosen["tensorrt-rtx"], chosen["onnxruntime-cpu"]), {"tensorrt": Lack("it is absent", "get it")}, H100
    )
    contenders = open_contenders(MODEL, None, options())
    feeds, data = feeds_for(contenders[0], options())
    bench = Measurement(contenders, feeds, H100, rounds=6, warm_up=1, options=options())
    failed, measured, lacking = measure(bench, choice, data, SILENT).rows
    assert failed.error == "no memory left on the device (hint: close other programs)"
    assert (failed.device, failed.precision) == ("NVIDIA H100 80GB HBM3", "fp16")
    assert measured.models
    assert (lacking.runtime, lacking.error) == ("tensorrt", "it is absent (get it)")


def test_what_makes_figures_unsure_is_said(pair):
    from edgeprune.compiler.timing.benching import _warnings
    from edgeprune_targets.processor import Load
    from edgeprune_targets.readings import Sensed

    (row,) = pair.rows
    spread = tuple(
        replace(model, timing=replace(model.timing, p50_ms=1.0, p90_ms=(1.1, 1.3)[i]))
        for i, model in enumerate(row.models)
    )
    unsure = replace(
        row,
        models=spread,
        load=Load(others=1.24, stolen=0.5),
        steady=False,
        warm_up=100,
        sensed=Sensed(throttled=("power cap", "hardware thermal slowdown")),
        ratio=replace(row.ratio, low_95=0.98, high_95=1.5),
    )
    assert list(_warnings(unsure)) == [
        "onnxruntime-cpu: other processes used 1.2 cores meanwhile; read the ratio, not the times",
        "onnxruntime-cpu: the host took 0.5 cores from this virtual machine meanwhile",
        "onnxruntime-cpu: times of pruned are spread, p90 is over 1.25 times the median",
        "onnxruntime-cpu: times still changed after 100 warm-up runs of each model",
        "onnxruntime-cpu: the device ran below its clock: power cap, hardware thermal slowdown",
        "onnxruntime-cpu: no difference between the models is shown at 95 %",
    ]
    calm = replace(unsure, models=(spread[0],) * 2, load=Load(others=0.1, stolen=0), steady=True, sensed=Sensed())
    assert list(_warnings(replace(calm, ratio=replace(row.ratio, low_95=1.2, high_95=1.5)))) == []
