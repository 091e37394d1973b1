"""Whole sublayers and modelled latency as a budget, from the outside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgeprune
from edgeprune import api
from edgeprune.cli.main import run
from edgeprune.compiler.opening.loading import opened
from edgeprune.compiler.proving.width_proof import prove_widths
from edgeprune.compiler.structuring.level_times import LevelTimes
from edgeprune.compiler.structuring.mixes import mixes
from edgeprune.core.errors import PlanError
from edgeprune.core.plan import StrategySpec, TokenCut, WidthCut, check_plan, read_plan
from edgeprune.core.widths.arrays import arrays_to_bytes, digest, read_arrays
from edgeprune_passes.apply import apply_plan

DEMO = Path(__file__).resolve().parents[2] / "demo"
MODEL, DATA = DEMO / "digits_vit.onnx", DEMO / "digits_test.npz"
TARGET = "jetson-orin-nano-8gb"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def options(**given) -> edgeprune.Options:
    fixed = {"samples": 20, "search": 0, "threads": 1, "data": DATA, "strategy": "uniform", "engine": False}
    return edgeprune.Options(**{**fixed, **given})


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Sublayers alone, within a modelled latency."""
    out = tmp_path_factory.mktemp("sublayers") / "o"
    asked = options(latency=0.75, axes=("sublayers",))
    return edgeprune.compile(MODEL, target=TARGET, out=out, options=asked), out


def test_a_modelled_latency_is_met_and_named_so(compiled):
    report = compiled[0].report
    assert (report.budget.kind, report.budget.asked) == ("modelled-latency", 0.75)
    (row,) = [row for row in report.latency if row.kind == "modelled"]
    assert row.pruned_p50_ms <= 0.76 * row.dense_p50_ms
    assert {(r.kind.endswith("-sublayer"), r.keep, r.of, r.method) for r in report.widths} == {(True, 0, 1, "mean row")}
    assert all(r.error >= 1 and r.untouched >= 1 for r in report.widths)
    assert report.validation.widths.passed
    assert report.validation.widths.method == "zeroed-dense"
    assert report.pruned.macs < report.model.macs


def test_what_is_behind_keeps_its_block(compiled):
    report = compiled[0].report
    gone = {row.block for row in report.widths if row.kind == "attention-sublayer"}
    assert gone
    assert {cost.block for cost in report.blocks if cost.pruned_macs < 0.5 * cost.dense_macs} >= gone
    assert report.blocks[1].pruned_macs == report.blocks[1].dense_macs, "nothing was cut in the first block"
    (row,) = [row for row in report.latency if row.kind == "modelled"]
    assert [part.block for part in row.blocks] == list(range(-1, 6))


def test_the_proof_fails_where_a_row_is_another(compiled):
    result, out = compiled
    arrays = read_arrays(out / "widths.npz", result.plan.widths_sha256)
    feed = {"image": np.load(DATA)["image"][:1].astype(np.float32)}
    with opened(MODEL, options()) as loaded:
        plan = replace(result.plan, eliminate_tail=False)
        narrow = loaded.dense.clone()
        apply_plan(narrow, plan, arrays)
        assert prove_widths(loaded.dense, narrow, plan, arrays, feed, threads=1).passed
        name = next(name for name in arrays if name.endswith("/mean"))
        other = {**arrays, name: np.roll(arrays[name], 1)}
        assert not prove_widths(loaded.dense, narrow, plan, other, feed, threads=1).passed


def test_a_plan_with_its_arrays_or_a_folder_gives_the_same_bytes_and_rows(compiled, tmp_path):
    result, out = compiled
    made = {
        "arrays": {"plan": result.plan, "widths": result.arrays},
        "file": {"plan": result.plan, "widths": out / "widths.npz"},
        "folder": {"plan": out},
        "beside": {"plan": out / "plan.json", "widths": out},
    }
    for name, given in made.items():
        again = edgeprune.compile(MODEL, **given, out=tmp_path / name, options=options(samples=12))
        assert (tmp_path / name / "model.onnx").read_bytes() == (out / "model.onnx").read_bytes()
        assert again.report.widths == result.report.widths
    other = {**result.arrays, "mlp-sublayer.0/mean": np.zeros(64, np.float32)}
    with pytest.raises(PlanError, match=r"the arrays of widths have sha256 [0-9a-f]{12}, the plan names"):
        edgeprune.compile(MODEL, plan=result.plan, widths=other, options=options())


def test_a_file_without_costs_still_has_rows(compiled, tmp_path):
    result = compiled[0]
    few = {name: array for name, array in result.arrays.items() if not name.endswith("/cost")}
    plan = replace(result.plan, widths_sha256=digest(arrays_to_bytes(few)))
    report = edgeprune.compile(MODEL, plan=plan, widths=few, out=tmp_path / "o", options=options(samples=12)).report
    assert [row.error for row in report.widths] == [None] * len(plan.widths)
    assert "mean row" in (tmp_path / "o" / "report.html").read_text()


def test_tokens_are_cut_first_and_never_behind_an_attention_that_is_gone(monkeypatch):
    monkeypatch.setattr("edgeprune.compiler.structuring.mixes._TOKEN_SHARES", (0.6,))
    report = edgeprune.compile(MODEL, macs=0.6, options=options(axes=("tokens", "sublayers"), samples=12)).report
    cut = {each.block for each in report.plan.cuts}
    names = [each.name for each in report.strategy.candidates if each.score is not None]
    assert any("tokens" in name and "sublayers" in name for name in names)
    assert not cut & {row.block for row in report.plan.widths if row.kind == "attention-sublayer"}
    assert report.budget.macs == pytest.approx(0.6, rel=0.05)
    for proof in (report.validation.exactness, report.validation.widths):
        assert proof is None or proof.passed
    refused = [str(each.refused) for each in report.strategy.candidates if each.refused]
    assert not [words for words in refused if "has no cut point" in words]


def test_plans_that_contradict_themselves_are_named(compiled):
    plan = compiled[0].plan
    spec = StrategySpec(name="uniform")
    gone = WidthCut(kind="attention-sublayer", block=3, keep=0, of=1)
    with pytest.raises(PlanError, match=r"tokens are cut behind the attention of block 3.*`cuts\[0\]`"):
        check_plan(replace(plan, widths=(gone,), cuts=(TokenCut(block=3, keep=20, strategy=spec),)))
    behind = tuple(replace(gone, block=block) for block in (4, 5))
    with pytest.raises(PlanError, match="no attention is left behind it"):
        check_plan(replace(plan, widths=behind, cuts=(TokenCut(block=3, keep=20, strategy=spec),)))
    heads = WidthCut(kind="heads", block=3, keep=2, of=4)
    with pytest.raises(PlanError, match=r"the heads width of block 3 is cut, and its sublayer is gone: `widths\[1\]`"):
        check_plan(replace(plan, widths=(gone, heads)))
    with pytest.raises(PlanError, match=r"block 3 keeps 0 of 4 \(heads\), expected fewer and at least one"):
        check_plan(replace(plan, widths=(replace(heads, keep=0),)))


def test_milliseconds_are_a_budget_of_the_slowest_target():
    table = api.latency(MODEL, TARGET)
    dense = table.rows[0].estimate.p50_ms
    report = edgeprune.compile(
        MODEL, target=TARGET, options=options(latency_ms=0.9 * dense, axes=("sublayers",), samples=12)
    ).report
    (row,) = [row for row in report.latency if row.kind == "modelled"]
    assert row.pruned_p50_ms <= 0.91 * dense
    assert report.budget.asked == pytest.approx(0.9, abs=1e-6)
    with pytest.raises(PlanError, match=r"the dense model is modelled at .* ms, and 100 ms were asked for"):
        edgeprune.compile(MODEL, target=TARGET, options=options(latency_ms=100.0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"options": options(latency=0.8)}, "a latency is modelled for targets, and there is none"),
        ({"options": options(latency=0.8), "macs": 0.8, "target": TARGET}, "`latency` is a budget of its own"),
        ({"options": options(latency=0.8, latency_ms=2.0), "target": TARGET}, "`latency` is a budget of its own"),
        ({"options": options(latency=0.2), "target": TARGET}, "fewer tokens do not bring the modelled latency on"),
    ],
)
def test_what_no_latency_can_be_is_named(given, message):
    with pytest.raises(PlanError, match=message):
        edgeprune.compile(MODEL, **given)
    with pytest.raises(PlanError, match="`latency_ms` is -1, expected milliseconds above 0"):
        options(latency_ms=-1.0)


class _Stairs(LevelTimes):
    """A device on which nothing below half of a width is any faster."""

    def __init__(self) -> None:
        self.whole = {0: 1.0}

    def cost(self, item, keep):
        return (max(keep, 128) - item.size) / item.size


def test_levels_that_are_modelled_no_faster_are_dropped():
    class Item:
        kind, block, size = "mlp", 0, 256

    assert _Stairs().faster(Item, [64, 128, 192, 256]) == ([128, 192, 256], [64])


def test_the_command_line_takes_a_latency(tmp_path, capsys):
    words = ["plan", str(MODEL), "--latency", "0.8", "--axes", "sublayers", "--target", TARGET, "--data", str(DATA)]
    words += ["--samples", "12", "--threads", "1", "-q"]
    assert run([*words, "-o", str(tmp_path / "plan.json")]) == 0
    made = read_plan(tmp_path / "plan.json")
    assert any(cut.kind.endswith("sublayer") for cut in made.widths)
    assert json.loads((tmp_path / "plan.json").read_text())["widths"]
    assert run(["inspect", str(MODEL), "-q"]) == 0
    shown = capsys.readouterr().out
    assert "attention-sublayer in 6 blocks, mlp-sublayer in 6 blocks" in shown
    assert "head-size in 6 blocks" not in shown
    assert "head-size is 16, and what runs fast keeps 8 at a time and 16 at the least" in shown


def test_mixes_with_sublayers_name_their_parts():
    assert [mix.name for mix in mixes(("mlp", "sublayers"), params=False)] == [
        "mlp 100%",
        "sublayers 35%, mlp 65%",
        "sublayers 70%, mlp 30%",
        "sublayers 100%",
    ]
    assert next(mix.name for mix in mixes(("tokens", "sublayers"), params=False)) == "tokens 95%, sublayers 5%"
