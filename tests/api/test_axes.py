"""A budget over several axes: it is met, every mix is scored or refused, and the best is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgeprune
from edgeprune.cli.main import run
from edgeprune.compiler.structuring.mixes import beside, mixes
from edgeprune.core.errors import PlanError

DEMO = Path(__file__).resolve().parents[2] / "demo"
MODEL, DATA = DEMO / "digits_vit.onnx", DEMO / "digits_test.npz"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def options(**given) -> edgeprune.Options:
    fixed = {"samples": 60, "search": 0, "threads": 1, "data": DATA, "strategy": "uniform"}
    return edgeprune.Options(**{**fixed, **given})


def test_macs_are_divided_and_met():
    report = edgeprune.compile(MODEL, macs=0.7, options=options(axes=("tokens", "mlp"))).report
    assert report.budget.macs == pytest.approx(0.7, rel=0.02)
    names = [each.name for each in report.strategy.candidates]
    first = ["tokens 100%", "tokens 95%, mlp 5%", "tokens 90%, mlp 10%", "tokens 75%, mlp 25%", "mlp 100%"]
    assert names[:5] == first
    scores = {each.name: each.score for each in report.strategy.candidates}
    assert all(score is not None for score in scores.values())
    assert len(names) == 5 + 2 * (min(first, key=lambda name: scores[name]) in first[1:4])
    best = min(scores, key=lambda name: scores[name])
    assert bool(report.plan.cuts) == ("tokens" in best)
    assert bool(report.widths) == ("mlp" in best)


def test_widths_alone_meet_a_budget_of_macs(tmp_path):
    found = edgeprune.compile(MODEL, macs=0.8, out=tmp_path / "o", options=options(axes=("mlp", "heads")))
    report = found.report
    assert report.budget.macs == pytest.approx(0.8, rel=0.03)
    assert not report.plan.cuts
    assert report.widths
    assert report.validation.widths.passed
    assert (tmp_path / "o" / "widths.npz").is_file()


def test_parameters_are_a_budget():
    report = edgeprune.compile(MODEL, options=options(params=0.7)).report
    assert report.budget.kind == "params"
    assert report.pruned.params / report.model.params == pytest.approx(0.7, rel=0.03)
    refused = [each for each in report.strategy.candidates if each.refused is not None]
    assert all("is to be saved" in str(each.refused) for each in refused)


def test_mixes_name_their_parts():
    assert [mix.name for mix in mixes(("mlp",), params=False)] == ["mlp 100%"]
    assert [mix.name for mix in mixes(("tokens", "mlp", "head-size"), params=False)] == [
        "tokens 95%, mlp and head-size 5%",
        "tokens 90%, mlp and head-size 10%",
        "tokens 75%, mlp and head-size 25%",
        "mlp and head-size 100%",
    ]
    every = mixes(("tokens", "mlp", "heads", "head-size"), params=False)
    assert [mix.name for mix in every[:2]] == [
        "tokens 95%, mlp and head-size 5%",
        "tokens 95%, mlp and head-size and heads 5%",
    ]
    assert [mix.name for mix in mixes(("tokens", "mlp", "head-size"), params=True)] == [
        "mlp 100%",
        "mlp 70%, head-size 30%",
        "mlp 50%, head-size 50%",
        "mlp and head-size 100%",
    ]


def test_shares_beside_the_best_are_half_way_to_the_next():
    tried = mixes(("tokens", "mlp"), params=False)
    assert [mix.tokens for mix in beside(tried[0], tried)] == pytest.approx([0.925, 0.975])
    assert [mix.tokens for mix in beside(tried[2], tried)] == pytest.approx([0.375, 0.825])
    assert not beside(tried[3], tried)


def test_tokens_fill_what_steps_of_widths_leave():
    report = edgeprune.compile(MODEL, macs=0.7, options=options(axes=("tokens", "mlp"))).report
    mixed = [each for each in report.strategy.candidates if each.name.startswith("tokens") and "mlp" in each.name]
    steps = 64 / 256 / 12  # of the MLPs' share of a six-block model: what one level of one block is worth at the least
    assert all(abs(each.macs_ratio - 0.7) < steps / 2 for each in mixed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"options": options(axes=("mlp",)), "keep": 0.8}, "`axes` divides a budget of MACs, parameters or latency"),
        ({"options": options(axes=("mlp",), mlp_keep=0.5), "macs": 0.8}, "`axes` divides a budget"),
        ({"options": options(params=0.8), "macs": 0.8}, "`params` is a budget of its own"),
        ({"options": options(params=0.8, axes=("tokens",))}, "fewer tokens do not make fewer parameters"),
        ({"options": options(axes=("mlp",), data=None), "macs": 0.8}, "is divided by outputs on data"),
        ({"options": options(axes=("mlp",)), "macs": 0.3}, "no mix of mlp can meet the budget"),
    ],
)
def test_what_does_not_go_together_is_named(given, message):
    with pytest.raises(PlanError, match=message):
        edgeprune.compile(MODEL, **given)


def test_an_axis_that_is_none_is_named():
    with pytest.raises(PlanError, match="no axis is named `depth`") as caught:
        options(axes=("depth",))
    assert caught.value.hint == "the axes are tokens, mlp, inner, head-size, heads, sublayers"


def test_the_command_line_takes_axes(tmp_path, capsys):
    words = [
        "plan",
        str(MODEL),
        "--macs",
        "0.7",
        "--axes",
        "mlp,head-size",
        "--data",
        str(DATA),
        "--samples",
        "30",
        "-q",
    ]
    assert run([*words, "-o", str(tmp_path / "plan.json"), "--threads", "1"]) == 0
    assert (tmp_path / "widths.npz").is_file()
    assert run([*words, "--axes", "depth"]) == 1
    assert "no axis is named `depth`" in capsys.readouterr().err
