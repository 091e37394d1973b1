"""Models whose outputs need all tokens: what auto tries, takes and says."""

from __future__ import annotations

import numpy as np
import pytest
from support.tiny_torch import Spelling, example, exported

import edgeprune
from edgeprune.compiler.deciding.pairing import _cheapest
from edgeprune.core.plan import StrategySpec
from edgeprune.core.results import Candidate


@pytest.fixture(scope="module")
def dense_map(tmp_path_factory: pytest.TempPathFactory):
    """A tiny transformer with a convolution over the grid behind it, and ten samples."""
    folder = tmp_path_factory.mktemp("map")
    spelling = Spelling(head="grid", depth=4)
    (folder / "map.onnx").write_bytes(exported(spelling))
    np.savez(folder / "data.npz", x=example(spelling, 10)["x"])
    return folder


def options(folder, **given) -> edgeprune.Options:
    return edgeprune.Options(**{"data": folder / "data.npz", "search": 0, "threads": 1, **given})


def cheapest(report, strategies):
    """Of the pairs of some strategies, those within a twentieth of the least score; of them the one of fewest MACs."""
    tried = [
        one for one in report.strategy.candidates if one.score is not None and one.name.split(", ")[0] in strategies
    ]
    least = min(one.score for one in tried)
    good = [one for one in tried if one.score <= 1.05 * least]
    return min(good, key=lambda one: (round(one.macs_ratio, 2), one.score)).name


def test_auto_takes_the_cheapest_of_the_best_pairs_that_it_measured(dense_map):
    report = edgeprune.compile(dense_map / "map.onnx", keep=0.7, options=options(dense_map)).report
    scores = {tried.name: tried.score for tried in report.strategy.candidates if tried.score is not None}
    assert {"ward-merge, residual-delta", "k-centre, residual-delta", "tome, residual-delta"} <= set(scores)
    two = {n.split(", ")[0] for n in sorted((n for n in scores if n.endswith("-delta")), key=lambda n: scores[n])[:2]}
    assert {name.split(", ")[0] for name in scores if "soft" in name} == two
    assert f"{report.strategy.name}, {report.plan.restore}" == cheapest(report, two)
    assert report.validation.identity is True
    assert report.validation.exactness is not None
    assert report.validation.exactness.passed


def test_a_named_strategy_still_gets_the_best_mode(dense_map):
    report = edgeprune.compile(dense_map / "map.onnx", keep=0.7, options=options(dense_map, strategy="cls-topk")).report
    scores = {tried.name: tried.score for tried in report.strategy.candidates if tried.score is not None}
    assert set(scores) == {f"cls-topk, {mode}" for mode in ("nearest", "soft", "residual-delta")}
    assert f"cls-topk, {report.plan.restore}" == cheapest(report, {"cls-topk"})


def test_no_pair_is_cheaper_than_one_that_drifts_as_little():
    def pair(mode, score, macs):
        spec = StrategySpec(name="tome")
        return mode, spec, Candidate(name=mode, options={}, macs_ratio=macs, score=score, drift={})

    best, near, far = pair("soft", 1.0, 0.66), pair("unmerge", 1.049, 0.63), pair("last-seen", 1.06, 0.5)
    assert _cheapest([best, near, far])[0] == "unmerge"
    assert _cheapest([best, far])[0] == "soft"
    assert _cheapest([best, pair("nearest", 1.01, 0.662)])[0] == "soft"  # the same to a hundredth


def test_a_named_mode_is_taken_as_it_is(dense_map):
    report = edgeprune.compile(dense_map / "map.onnx", keep=0.7, options=options(dense_map, restore="soft")).report
    assert report.plan.restore == "soft"
    assert not any("," in tried.name for tried in report.strategy.candidates)


def test_without_data_the_same_pair_every_time(dense_map):
    plans = [
        edgeprune.compile(dense_map / "map.onnx", keep=0.7, options=edgeprune.Options(engine=False)).plan
        for _ in range(2)
    ]
    assert plans[0] == plans[1]
    assert (plans[0].cuts[0].strategy.name, plans[0].restore) == ("ward-merge", "auto")
