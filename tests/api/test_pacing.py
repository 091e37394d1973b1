"""How many cuts a plan has where a target is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune._bench import DEFAULT_CUTS, Bench, Budget
from edgeprune._loading import opened
from edgeprune._pacing import _AS_FAST, paced
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
