"""Tokens and MACs by block add up to the whole and follow the plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.compiler.deciding.bench import Bench
from edgeprune.compiler.deciding.budgets import Budget
from edgeprune.compiler.opening.loading import opened
from edgeprune.compiler.timing.block_costs import block_costs
from edgeprune.core.costs import count_macs
from edgeprune.core.plan import StrategySpec
from edgeprune.options import Options

DIGITS = Path(__file__).parents[2] / "demo" / "digits_vit.onnx"


@pytest.fixture(scope="module")
def parts():
    with opened(DIGITS, Options()) as loaded:
        bench = Bench(loaded, Options(), most_cuts=2)
        spec = StrategySpec(name="cls-topk")
        plan = bench.plan(spec, bench.first_fit(spec, Budget("keep", 0.6)))
        yield loaded.dense, bench.build(plan), plan


def test_the_blocks_add_up_to_the_model(parts):
    dense, pruned, plan = parts
    rows = block_costs(dense, pruned, plan)
    assert [row.block for row in rows] == list(range(-1, plan.blocks))
    assert sum(row.dense_macs for row in rows) == count_macs(dense)
    assert sum(row.pruned_macs for row in rows) == count_macs(pruned)


def test_tokens_that_enter_a_block_are_those_that_the_cuts_before_it_left(parts):
    dense, pruned, plan = parts
    rows = {row.block: row for row in block_costs(dense, pruned, plan)}
    first = plan.cuts[0]
    whole = plan.patch_tokens + plan.prefix_tokens
    assert rows[first.block].pruned_tokens == whole
    assert rows[first.block + 1].pruned_tokens == first.keep + plan.prefix_tokens
    assert rows[first.block + 1].pruned_macs < rows[first.block + 1].dense_macs
    assert all(row.dense_tokens == whole for row in rows.values())
