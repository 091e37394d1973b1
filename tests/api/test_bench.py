"""`bench` on the demo's model and what was compiled from it, in ONNX Runtime on this machine. No time is asserted."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeprune
from edgeprune._benching import Measurement, measure
from edgeprune._contenders import feeds_for, open_contenders
from edgeprune._engines import EngineOpened, EngineRuntime, target_like
from edgeprune._lacks import Lack
from edgeprune._runners import Choice, OnnxRuntime, choose_runtimes, runtimes
from edgeprune.core.errors import DataError, ModelError, PlanError, TargetError
from edgeprune.core.progress import SILENT
from edgeprune.report import BenchReport, from_json, to_json
from edgeprune_calibration.runner import Runner
from edgeprune_targets.builders.driver import Device, find_device

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
    from edgeprune._benching import _warnings
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


def message_of(kind: type[edgeprune.EdgepruneError], *models: Path, **given) -> tuple[str, str]:
    with pytest.raises(kind) as caught:
        edgeprune.bench(*models, **{**QUICK, **given})
    return caught.value.message, caught.value.hint


GIVE = "give an ONNX file, or a folder that `edgeprune compile` wrote; `edgeprune export` makes the former"


def test_what_is_no_model_word_for_word(compiled, tmp_path):
    assert message_of(ModelError, tmp_path / "no") == (f"no such model or folder: {tmp_path / 'no'}", GIVE)
    assert message_of(ModelError, MODEL, tmp_path / "no") == (f"no such model or folder: {tmp_path / 'no'}", GIVE)
    (tmp_path / "empty").mkdir()
    assert message_of(ModelError, tmp_path / "empty") == (f"no model.onnx in the folder {tmp_path / 'empty'}", GIVE)
    (tmp_path / "text.onnx").write_text("no model at all")
    message, hint = message_of(ModelError, tmp_path / "text.onnx")
    assert message.startswith(f"not a readable ONNX file: {tmp_path / 'text.onnx'} (")
    assert hint == "the file is truncated, or of another format; export it again"
    (tmp_path / "empty" / "model.onnx").write_bytes((compiled / "model.onnx").read_bytes())
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
    monkeypatch.setattr("edgeprune._runners.available_providers", lambda: ("CPUExecutionProvider",))
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


def test_without_a_device_nobody_is_told_of_what_needs_one(monkeypatch):
    monkeypatch.setattr("edgeprune_targets.builders.driver.find_device", lambda: None)
    choice = choose_runtimes(())
    assert ([runtime.name for runtime in choice.runtimes], choice.lacking) == (["onnxruntime-cpu"], {})


def test_a_provider_that_does_not_start_is_not_measured_as_another(monkeypatch):
    monkeypatch.setattr(Runner, "provider", property(lambda _: "CPUExecutionProvider"))
    monkeypatch.setattr("edgeprune._runners.Runner", lambda *_, **__: object.__new__(Runner))
    runtime = OnnxRuntime("onnxruntime-cuda", "CUDAExecutionProvider", on_gpu=True)
    with pytest.raises(
        TargetError, match="could not start CUDAExecutionProvider and fell back to CPUExecutionProvider"
    ):
        runtime.open(open_contenders(MODEL, None, options())[0].model, "fp32", 1, ExitStack())


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
    message, _ = message_of(DataError, MODEL, options=options(data=tmp_path / "x.npy"))
    assert "expected Nx1x32x32 for input `image`" in message


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


def test_a_device_that_no_profile_is_like_word_for_word():
    with pytest.raises(TargetError) as caught:
        target_like(Device(name="NVIDIA Future", compute_capability="99.0", driver="20.0"))
    assert caught.value.message == "no profile has the compute capability 99.0 of NVIDIA Future"
