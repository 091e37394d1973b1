"""What a compile delivers: graphs lowered once a runtime, engines where they can be built, folders for the others."""

from __future__ import annotations

import importlib.util
import json
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import edgeprune
from edgeprune.compiler.deciding.bench import Bench
from edgeprune.compiler.deciding.budgets import Budget
from edgeprune.compiler.delivering.building import Workshop, _orders
from edgeprune.compiler.delivering.delivery import _lost_fusion
from edgeprune.compiler.delivering.lowerings import Lowerings
from edgeprune.compiler.opening.loading import opened
from edgeprune.compiler.timing.modelling import modelled
from edgeprune.core.errors import EdgepruneError, TargetError
from edgeprune.core.plan import StrategySpec
from edgeprune.core.progress import SILENT
from edgeprune.options import Options
from edgeprune.report.judging import engine_words
from edgeprune_targets.profiles import load_target, load_targets

DEMO = Path(__file__).parents[2] / "demo"
DIGITS = DEMO / "digits_vit.onnx"


@pytest.fixture(scope="module")
def made():
    with opened(DIGITS, Options()) as loaded:
        bench = Bench(loaded, Options(precision="fp16"), most_cuts=2)
        spec = StrategySpec(name="cls-topk")
        plan = bench.plan(spec, bench.first_fit(spec, Budget("keep", 0.6)))
        yield {"model": bench.build(plan), "dense": loaded.dense}, plan


def test_targets_that_share_a_runtime_share_the_lowered_graph_and_its_proof(made):
    graphs, plan = made
    lowerings = Lowerings(graphs, plan, None, 1)
    one, two = (load_target(name) for name in ("jetson-orin", "jetson-orin-nano"))
    runtime = lowerings.on_device(one)
    assert lowerings.of("model", runtime, one) is lowerings.of("model", runtime, two)
    assert lowerings.of("dense", runtime, one) is not lowerings.of("model", runtime, one)
    assert [(proof.runtime, proof.passed) for proof in lowerings.proofs] == [("tensorrt-10.3", True)]


def test_a_lowering_that_computes_something_else_is_not_proved(made, monkeypatch):
    graphs, plan = made

    def skewed(model, *args, **more):
        lowered = lower(model, *args, **more)
        weights = lowered.model.graph.initializers.values()
        scales = [v for v in weights if v.dtype.is_floating_point() and len(v.shape) == 1]
        scales[-1].const_value = ir.tensor(scales[-1].const_value.numpy() + 1, name=scales[-1].name)
        return lowered

    from edgeprune.compiler.delivering.lowerings import lower

    monkeypatch.setattr("edgeprune.compiler.delivering.lowerings.lower", skewed)
    lowerings = Lowerings({name: graph.clone() for name, graph in graphs.items()}, plan, None, 1)
    target = load_target("jetson-orin")
    lowerings.of("model", lowerings.on_device(target), target)
    assert [proof.passed for proof in lowerings.proofs] == [False]


def test_one_build_serves_all_that_share_builder_and_graph():
    targets = load_targets("rtx-4090,rtx-3090,rtx-2080ti,jetson-orin")
    orders, refused = _orders(targets, "")
    assert [[target.name for target in order.targets] for order in orders] == [["rtx-4090", "rtx-3090"], ["rtx-2080ti"]]
    assert list(refused) == ["jetson-agx-orin-64gb"]
    assert "copy deploy/" in (refused["jetson-agx-orin-64gb"].error or "")


def test_attention_that_was_asked_to_stay_unfused_is_not_lost(made, tmp_path):
    graphs, plan = made
    lowerings = Lowerings(graphs, replace(plan, fused_attention=False), None, 1)
    (engine,) = Workshop(lowerings, (), "").build(load_targets("rtx-4090"), tmp_path, SILENT)
    assert (engine.built, engine.fused_attentions, engine.attention_unfused) == (True, 0, True)
    assert _lost_fusion([engine]) == []
    assert _lost_fusion([replace(engine, attention_unfused=False)])
    (row,) = modelled(graphs["dense"], graphs["model"], load_targets("rtx-4090"), "fp16", fused_attention=False)
    assert "counts as fused here although" in row.method


def test_fp32_loses_no_fused_attention_for_it_has_none(made, tmp_path):
    graphs, plan = made
    lowerings = Lowerings(graphs, replace(plan, precision="fp32"), None, 1)
    (engine,) = Workshop(lowerings, (), "").build(load_targets("rtx-4090"), tmp_path, SILENT)
    assert (engine.built, engine.attentions) == (True, None)
    assert _lost_fusion([engine]) == []
    assert engine_words(engine) == ("built; fused attentions not counted", "plain")


def test_who_names_a_version_of_tensorrt_gets_no_engine_of_tensorrt_rtx():
    orders, refused = _orders(load_targets("rtx-4090"), "10.3")
    assert not orders
    assert list(refused) == ["rtx-4090"]


def test_what_the_runtime_does_not_take_is_named_and_not_tried(made, tmp_path):
    graphs, plan = made
    broken = graphs["model"].clone()
    next(node for node in broken.graph if node.op_type == "Softmax").op_type = "Compress"
    lowerings = Lowerings({"model": broken, "dense": graphs["dense"]}, plan, None, 1)
    lowerings._prove = lambda *_: None  # a graph with such a node does not run
    (result,) = Workshop(lowerings, (), "").build(load_targets("rtx-4090"), tmp_path, SILENT)
    assert not result.built
    assert "Compress" in (result.error or "")
    assert not list(tmp_path.iterdir())


def test_an_engine_is_tried_against_the_graph_that_it_was_built_from(made, tmp_path):
    graphs, plan = made
    names = {value.name: tuple(value.shape.numpy()) for value in graphs["model"].graph.inputs}
    feed = {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32) for name, shape in names.items()}
    lowerings = Lowerings(graphs, plan, feed, 1)
    from edgeprune.core.saving import save_model

    target = load_target("jetson-orin")
    lowered = lowerings.of("model", lowerings.on_device(target), target)
    save_model(lowered.model, tmp_path / "model.onnx")
    trial = Workshop(lowerings, [feed], "")._trial("model", tmp_path / "model.onnx")
    assert trial is not None
    assert 0 < trial.yardstick < 0.5  # fp16 against fp32, on noise
    assert len(trial.reference) == 1


def test_devices_that_build_for_themselves_get_a_folder_each(tmp_path):
    out = tmp_path / "out"
    options = edgeprune.Options(strategy="cls-topk", data=DEMO / "digits_test.npz", samples=10, search=0)
    words = ["jetson-orin,jetson-orin-nano"]
    report = edgeprune.compile(DIGITS, target=words, keep=0.6, out=out, options=options).report
    folders = sorted(path.name for path in (out / "deploy").iterdir())
    assert folders == ["jetson-agx-orin-64gb", "jetson-orin-nano-8gb-super"]
    for name in folders:
        facts = json.loads((out / "deploy" / name / "target.json").read_text())
        assert (facts["target"], facts["tensorrt"]) == (name, "10.3")
        assert (out / "deploy" / name / "reference.npz").is_file()
    assert [engine.built for engine in report.engines] == [False, False]
    assert (out / "report.html").is_file()
    assert report.token_maps
    assert all((out / str(each.image)).is_file() for each in report.token_maps)
    assert [proof.passed for proof in report.lowerings] == [True]
    assert sum(row.pruned_macs for row in report.blocks) == report.pruned.macs


def test_a_version_that_the_device_cannot_have_is_refused_before_any_work(tmp_path):
    with pytest.raises(TargetError, match="cannot have TensorRT 11"):
        edgeprune.compile(
            DIGITS, target="jetson-agx-xavier", keep=0.6, out=tmp_path / "out", options=edgeprune.Options(tensorrt="11")
        )
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_files():
    """No file can grow beyond this, as on a disk that is nearly full: the compiled model is larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path):
    with pytest.raises(EdgepruneError, match="cannot write") as caught:
        edgeprune.compile(DIGITS, target="jetson-orin", keep=0.6, out=tmp_path / "out")
    assert "free some space" in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


def test_without_any_tensorrt_here_the_desktop_gets_a_deploy_folder_and_the_reason(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    gone = {"tensorrt", "tensorrt_rtx"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in gone else find_spec(name, *more)
    )
    out = tmp_path / "out"
    report = edgeprune.compile(DIGITS, target="rtx-4090", keep=0.6, out=out).report
    (engine,) = report.engines
    assert not engine.built
    assert 'pip install "edgeprune[rtx]"' in (engine.error or "")
    assert (out / "deploy" / "build.sh").is_file()
    assert not (out / "engine").exists()


def test_a_build_that_fails_is_the_first_warning_and_what_was_made_stays(tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason='TensorRT-RTX is not installed: pip install "edgeprune[rtx]"')
    from edgeprune_targets.builders.registry import builders
    from edgeprune_targets.builders.tensorrt_rtx import RtxBuilder

    monkeypatch.setitem(builders(), "tensorrt-rtx", RtxBuilder(timeout_s=0.01))
    out = tmp_path / "out"
    report = edgeprune.compile(DIGITS, target="rtx-4090", keep=0.6, out=out).report
    assert report.warnings[0].startswith("rtx-4090: tensorrt-rtx built no engine: TensorRT-RTX took longer")
    assert (out / "deploy" / "build.sh").is_file()
    assert (out / "model.onnx").is_file()
