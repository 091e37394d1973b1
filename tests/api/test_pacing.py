"""How many cuts a plan has where a target is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.tiny_torch import Spelling, exported

from edgeprune.compiler.deciding.bench import DEFAULT_CUTS, Bench
from edgeprune.compiler.deciding.budgets import Budget
from edgeprune.compiler.deciding.pacing import _AS_FAST, _MOST_CUTS, gentle, paced
from edgeprune.compiler.opening.loading import opened
from edgeprune.core.plan import StrategySpec
from edgeprune.options import Options
from edgeprune_targets.latency import estimate
from edgeprune_targets.profiles import load_target

DIGITS = Path(__file__).parents[2] / "demo" / "digits_vit.onnx"
SPEC, BUDGET = StrategySpec(name="cls-topk"), Budget("keep", 0.6)


@pytest.fixture(scope="module")
def bench():
    with opened(DIGITS, Options()) as loaded:
        yield Bench(loaded, Options(), ("rtx-4090",))


def modelled(bench: Bench, cuts: int) -> float:
    at = replace(bench, most_cuts=cuts)
    pruned = at.build(at.plan(SPEC, at.first_fit(SPEC, BUDGET)))
    return estimate(pruned, load_target("rtx-4090"), "fp16").p50_ms


def test_the_most_cuts_are_taken_that_are_as_fast_as_the_fastest(bench):
    chosen = paced(bench, SPEC, BUDGET, [load_target("rtx-4090")]).cuts
    times = {cuts: modelled(bench, cuts) for cuts in range(1, DEFAULT_CUTS + 1)}
    fast = [cuts for cuts, ms in times.items() if ms <= min(times.values()) / _AS_FAST]
    assert chosen == max(fast)
    assert chosen < DEFAULT_CUTS  # so small a model is bound by launches


def test_the_users_number_stands(bench):
    asked = replace(bench, options=Options(cuts=3))
    assert paced(asked, SPEC, BUDGET, [load_target("rtx-4090")]).cuts == 3


def test_without_a_target_nothing_changes(bench):
    assert paced(bench, SPEC, BUDGET, []) is bench


@pytest.fixture(scope="module")
def dense_map(tmp_path_factory):
    """Eight blocks and a convolution over the grid behind them."""
    path = tmp_path_factory.mktemp("map") / "map.onnx"
    path.write_bytes(exported(Spelling(head="grid", depth=8)))
    with opened(path, Options()) as loaded:
        yield Bench(loaded, Options())


def harshest(bench: Bench, cuts: int, keep: float) -> float:
    at = replace(bench, most_cuts=cuts)
    schedule = at.first_fit(StrategySpec(name="ward-merge"), Budget("keep", keep))
    return max(1 - after / before for before, after in zip((at.patches, *schedule), schedule, strict=False))


@pytest.mark.parametrize("keep", [0.9, 0.7, 0.62, 0.45])
def test_where_tokens_come_back_there_are_as_few_cuts_as_let_none_take_much(dense_map, keep):
    assert dense_map.restores
    shares = {cuts: harshest(dense_map, cuts, keep) for cuts in range(DEFAULT_CUTS, _MOST_CUTS + 1)}
    enough = max(0.182, min(shares.values()))
    assert gentle(dense_map, Budget("keep", keep)).cuts == next(c for c, share in shares.items() if share <= enough)


def test_a_budget_of_macs_is_paced_like_one_of_tokens(dense_map):
    cuts = [gentle(dense_map, Budget("macs", share)).cuts for share in (0.95, 0.8, 0.6)]
    assert cuts == sorted(cuts)
    assert cuts[0] < cuts[-1]


def test_where_no_tokens_come_back_nothing_changes(bench):
    assert gentle(bench, BUDGET) is bench
