"""Means over merged tokens: each token counts as many as it stands for, as if all had come back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.surgery import canonical, forward, prove_cuts, reduce
from support.tiny_torch import Spelling, example

HEADS = {
    "mean of patches": Spelling(head="mean"),
    "mean of all, no class token": Spelling(head="mean", prefix=0),
    "mean, post-norm": Spelling(head="mean", norm="post"),
    "attention pool, no class token": Spelling(head="pool", prefix=0),
}
STRATEGIES = ("tome", "ward-merge", "grid-cluster")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("head", HEADS)
def test_a_pool_of_merged_tokens_is_the_pool_of_all_unmerged(head: str, strategy: str, batch: int) -> None:
    """Two ways to one number: sizes as weights, and every token brought back with its group's value."""
    spelling = HEADS[head]
    short, back = canonical(spelling, batch), canonical(spelling, batch)
    plan = reduce(short, {0: 17, 1: 13}, strategy)
    reduce(back, {0: 17, 1: 13}, strategy, restore="unmerge")
    assert not any("restore" in str(node.name) for node in short.graph)
    feed = example(spelling, batch)
    found, wanted = (next(iter(forward(model, feed).values())) for model in (short, back))
    np.testing.assert_allclose(found, wanted, atol=2e-5)  # sums of 25 in another order
    assert prove_cuts(canonical(spelling, batch), short, plan, [feed]).passed


def test_the_weights_matter() -> None:
    spelling = HEADS["mean of patches"]
    model = canonical(spelling, 1)
    reduce(model, {0: 13}, "ward-merge")
    feed = example(spelling, 1)
    weighed = next(iter(forward(model, feed).values()))
    for node in list(model.graph):
        if node.op_type == "Mul" and str(node.name).startswith("edgeprune/mean/") and len(node.inputs[0].shape) == 3:
            ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
    assert np.abs(next(iter(forward(model, feed).values())) - weighed).max() > 1e-3


def test_dropped_tokens_leave_a_plain_mean() -> None:
    model = canonical(HEADS["mean of patches"], 1)
    reduce(model, {0: 13}, "uniform")
    assert not any("edgeprune/mean" in str(node.name) for node in model.graph)
