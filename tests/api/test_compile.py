"""The whole way of a model through `compile`, on the model that comes with the project."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeprune
from edgeprune.core.loading import digest_of
from edgeprune.core.plan import PassSpec, plan_from_json
from edgeprune_calibration.runner import Runner

DEMO = Path(__file__).resolve().parents[2] / "demo"
MODEL, DATA = DEMO / "digits_vit.onnx", DEMO / "digits_test.npz"


def options(**given) -> edgeprune.Options:
    return edgeprune.Options(**{"samples": 20, "search": 0, "threads": 1, **given})


def test_the_folder_holds_what_was_promised(tmp_path):
    result = edgeprune.compile(MODEL, keep=0.6, out=tmp_path / "o", options=options(data=DATA))
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert {"model.onnx", "plan.json", "report.json", "report.html"} <= names
    assert "engine" not in names  # nothing was to be built
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["pruned"]["sha256"] == digest_of(tmp_path / "o" / "model.onnx")
    assert plan_from_json((tmp_path / "o" / "plan.json").read_bytes()) == result.plan
    onnx.checker.check_model(onnx.load(tmp_path / "o" / "model.onnx"), full_check=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "o"]


@pytest.mark.parametrize(("budget", "share"), [("keep", 0.6), ("keep", 0.85), ("macs", 0.7), ("macs", 0.8)])
@pytest.mark.parametrize("strategy", ["auto", "uniform", "cls-topk", "tome"])
def test_budgets_are_met_within_two_percent(budget, share, strategy):
    result = edgeprune.compile(MODEL, **{budget: share}, options=options(strategy=strategy))
    assert getattr(result.report.budget, budget) == pytest.approx(share, rel=0.02)


def test_every_proof_is_made_on_data():
    validation = edgeprune.compile(MODEL, keep=0.6, options=options(data=DATA)).report.validation
    assert validation.identity is True
    assert validation.exactness is not None
    assert validation.exactness.passed
    assert validation.exactness.sensitivity > 1000 * validation.exactness.max_abs_error
    assert validation.samples == 16  # four of twenty decide


def test_auto_takes_the_best_that_it_scored():
    report = edgeprune.compile(MODEL, keep=0.5, options=options(data=DATA)).report
    scores = {
        candidate.name: candidate.score for candidate in report.strategy.candidates if candidate.score is not None
    }
    assert len(scores) > 4
    assert report.strategy.name == min(scores, key=lambda name: scores[name])


def test_a_search_stays_on_the_budget_and_is_repeatable():
    asked = options(data=DATA, strategy="tome", search=6)
    made = edgeprune.compile(MODEL, macs=0.75, options=asked)
    assert made.report.budget.macs == pytest.approx(0.75, rel=0.02)
    assert made.plan == edgeprune.plan(MODEL, macs=0.75, options=asked)


def test_the_same_plan_gives_the_same_bytes(tmp_path):
    edgeprune.compile(MODEL, keep=0.6, out=tmp_path / "a", options=options(strategy="importance-merge"))
    for name in ("b", "c"):
        edgeprune.compile(MODEL, plan=tmp_path / "a" / "plan.json", out=tmp_path / name, options=options())
    made = [(tmp_path / name / "model.onnx").read_bytes() for name in "abc"]
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("cuts", [1, 2, 3])
def test_no_more_cuts_than_asked(cuts):
    plan = edgeprune.plan(MODEL, keep=0.7, options=options(cuts=cuts))
    assert 1 <= len(plan.cuts) <= cuts


def test_keep_one_changes_nothing(tmp_path):
    edgeprune.compile(MODEL, keep=1.0, out=tmp_path / "o", options=options(tail_elimination=False))
    feed = {"image": np.load(DATA)["image"][:1]}
    dense, kept = (Runner(path, optimise=False).run(feed) for path in (MODEL, tmp_path / "o" / "model.onnx"))
    assert all(np.array_equal(dense[name], kept[name]) for name in dense)


def test_validate_takes_the_plan_from_the_model(tmp_path):
    edgeprune.compile(MODEL, keep=0.6, out=tmp_path / "o", options=options())
    report = edgeprune.validate(MODEL, tmp_path / "o", data=DATA, options=options())
    assert report.validation.exactness is not None
    assert report.validation.exactness.passed
    assert report.validation.samples == 20


def test_validate_finds_a_model_that_was_changed(tmp_path):
    edgeprune.compile(MODEL, keep=0.6, out=tmp_path / "o", options=options(strategy="cls-topk"))
    path = tmp_path / "o" / "model.onnx"
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(1.01)).tobytes()
    onnx.save(model, path)
    found = edgeprune.validate(MODEL, path, data=DATA, options=options()).validation.exactness
    assert found is not None
    assert not found.passed


def test_a_limit_that_is_passed_writes_nothing(tmp_path):
    asked = options(data=DATA, strategy="random", max_drift={"kl": 1e-9})
    with pytest.raises(edgeprune.ValidationError, match="kl of output `logits`"):
        edgeprune.compile(MODEL, keep=0.3, out=tmp_path / "o", options=asked)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_another_model(tmp_path):
    edgeprune.compile(MODEL, keep=0.6, out=tmp_path / "o", options=options())
    other = tmp_path / "other.onnx"
    model = onnx.load(MODEL)
    model.doc_string = "another"
    onnx.save(model, other)
    with pytest.raises(edgeprune.PlanError, match="the plan is for another model"):
        edgeprune.compile(other, plan=tmp_path / "o" / "plan.json", options=options())


def test_an_output_that_exists_is_kept_without_force(tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine").write_text("x")
    with pytest.raises(edgeprune.PlanError, match="exists"):
        edgeprune.compile(MODEL, keep=0.6, out=tmp_path / "o", options=options())
    assert (tmp_path / "o" / "mine").read_text() == "x"
    edgeprune.compile(MODEL, keep=0.6, out=tmp_path / "o", options=options(force=True))
    assert not (tmp_path / "o" / "mine").exists()


def test_a_users_graphsurgeon_function_runs_as_a_pass(tmp_path, monkeypatch):
    pytest.importorskip("onnx_graphsurgeon", reason="needs the extra graphsurgeon")
    (tmp_path / "mine.py").write_text(
        "def double(graph):\n    bias = graph.nodes[-1].inputs[-1]\n    bias.values = bias.values * 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    asked = options(passes=(PassSpec(name="graphsurgeon", options={"function": "mine:double"}),), strategy="uniform")
    edgeprune.compile(MODEL, keep=0.8, out=tmp_path / "o", options=asked)
    plain = edgeprune.compile(MODEL, keep=0.8, out=tmp_path / "p", options=options(strategy="uniform"))
    feed = {"image": np.load(DATA)["image"][:1]}
    changed, same = (Runner(tmp_path / name / "model.onnx").run(feed)["logits"] for name in "op")
    assert plain.plan.passes == ()
    assert np.abs(changed - same).max() > 1e-3


def test_a_plan_that_runs_code_needs_trust():
    asked = options(passes=(PassSpec(name="graphsurgeon", options={"function": "os:getcwd"}),))
    made = edgeprune.plan(MODEL, keep=0.8, options=asked)
    with pytest.raises(edgeprune.PlanError, match="the plan runs code of yours") as caught:
        edgeprune.compile(MODEL, plan=made, options=options())
    assert "--trust-plan" in caught.value.hint


def test_what_gets_slower_is_said():
    report = edgeprune.compile(MODEL, keep=0.9, target="rtx-4090", options=options(engine=False, cuts=4)).report
    (row,) = report.latency
    assert row.kind == "modelled"
    assert row.speedup < 1
    assert any(warning.startswith("rtx-4090: modelled slower than dense") for warning in report.warnings)
