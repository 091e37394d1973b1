"""Cuts where prefix tokens stand among the patches or behind them: proved, restored, and the lossless tail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from support.scan_models import IMAGE, Causal, Hybrid, canonical_scan
from support.scan_surgery import SCAN, Cuts, canonical_vim, prove_vim, reduce_vim
from support.surgery import forward, prove_cuts
from support.tiny_vim import example

from edgeprune.core.plan import Alignment, Plan, Restore
from edgeprune.core.readout import find_readout
from edgeprune.core.recognition import recognize
from edgeprune.core.refusals import Refusal
from edgeprune_calibration._sites import find_sites
from edgeprune_calibration.token_maps import _Follower
from edgeprune_passes.eliminate_tail import EliminateTail
from edgeprune_passes.reduce_tokens import ReduceTokens


def image(batch: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).standard_normal((batch, *IMAGE)).astype(np.float32)}


@pytest.mark.parametrize(
    ("token", "strategy"), [("middle", "ssm-output"), ("middle", "uniform"), ("last", "random"), ("last", "ssm-runs")]
)
def test_the_class_token_keeps_its_place(token: str, strategy: str) -> None:
    spelling = replace(SCAN, token=token)  # type: ignore[arg-type]
    dense = canonical_vim(spelling, 3)
    pruned = dense.clone()
    plan = reduce_vim(pruned, Cuts(keep={0: 7}, strategy=strategy))
    assert prove_vim(dense, pruned, plan, spelling, 3).passed
    index = next(v for node in pruned.graph for v in node.outputs if v.name == "edgeprune/cut/0/index")
    pruned.graph.outputs.append(index)
    positions = forward(pruned, example(spelling, 3))["edgeprune/cut/0/index"]
    front = {"middle": 3, "last": 7}[token]
    assert (positions[:, front] == plan.prefix_place).all()
    assert (np.diff(positions, axis=1) > 0).all()


@pytest.mark.parametrize("token", ["middle", "first", "last", "none"])
def test_keeping_all_is_the_identity(token: str) -> None:
    spelling = replace(SCAN, token=token)  # type: ignore[arg-type]
    dense = canonical_vim(spelling, 2)
    pruned = dense.clone()
    reduce_vim(pruned, Cuts(keep={0: 16}, strategy="keep-all", alignment="gap"))
    inputs = example(spelling, 2)
    for name, value in forward(dense, inputs).items():
        np.testing.assert_array_equal(forward(pruned, inputs)[name], value)


@pytest.mark.parametrize(
    ("blocks", "middle", "alignment", "batch"),
    [("sas", True, "none", 3), ("sas", False, "gap", 1), ("ssa", True, "bias", 1), ("as", True, "gap", 3)],
)
def test_attention_beside_scans_sees_the_same_tokens(
    blocks: str, alignment: Alignment, batch: int, *, middle: bool
) -> None:
    dense = canonical_scan(Hybrid(blocks, middle=middle), batch)
    pruned = dense.clone()
    keep = {0: 11, 1: 6} if len(blocks) > 2 else {0: 9}
    plan = reduce_vim(pruned, Cuts(keep=keep, alignment=alignment))
    assert prove_cuts(dense, pruned, plan, [image(batch)]).passed


def restored(alignment: Alignment, restore: Restore, strategy: str) -> tuple[ir.Model, ir.Model, Plan]:
    dense = canonical_scan(Causal(), 2, text=True)
    found = recognize(dense)
    pruned = dense.clone()
    cuts = Cuts(keep={0: 8}, strategy=strategy, alignment=alignment).listed()
    ReduceTokens(cuts, restore, alignment=alignment).apply(pruned)
    plan = Plan(
        model_sha256="",
        inputs={},
        patch_tokens=13,
        prefix_tokens=1,
        prefix_place=found.found.place,
        blocks=3,
        cuts=cuts,
        restore=restore,
        alignment=alignment,
    )
    return dense, pruned, plan


@pytest.mark.parametrize(
    ("alignment", "restore", "strategy"),
    [
        ("none", "residual-delta", "random"),
        ("gap", "soft", "random"),
        ("none", "nearest", "ssm-output"),
        ("bias", "last-seen", "random"),
        ("exact", "residual-delta", "random"),
        ("stand-in", "last-seen", "random"),
        ("none", "unmerge", "ssm-delta"),
        ("gap", "cluster", "ssm-delta"),
    ],
)
def test_restored_tokens_surround_the_one_that_stayed(alignment: Alignment, restore: Restore, strategy: str) -> None:
    dense, pruned, plan = restored(alignment, restore, strategy)
    assert pruned.graph.outputs[0].shape == dense.graph.outputs[0].shape
    feeds = [{"ids": np.random.default_rng(seed).integers(0, 11, (2, 14))} for seed in range(2)]
    result = prove_cuts(dense, pruned, plan, feeds)
    assert result.passed, result


def test_the_tail_leaves_the_class_token_where_it_stands() -> None:
    dense = canonical_scan(Hybrid("ssa"), 2)
    pruned = dense.clone()
    assert EliminateTail().apply(pruned).changes
    for name, value in forward(dense, image(2)).items():
        np.testing.assert_allclose(forward(pruned, image(2))[name], value, atol=1e-5)


def test_maps_count_patches_around_the_class_token() -> None:
    pruned = canonical_vim(SCAN, 1)
    plan = reduce_vim(pruned, Cuts(keep={0: 7}, strategy="uniform"))
    assert find_sites(pruned, plan, ["x"])[0].merge == ()
    ((block, owners),) = _Follower(pruned, plan, 1).follow(example(SCAN, 1))
    # Three of the eight patches in front of the class token, four of those behind it.
    assert block == 0
    assert [i for i, owner in enumerate(owners[0]) if owner == i] == [1, 4, 6, 9, 11, 13, 15]
    assert {owner for i, owner in enumerate(owners[0]) if owner != i} == {-1}


def test_outputs_that_get_shorter_need_the_class_token_in_front() -> None:
    model = canonical_scan(Causal(), text=True)
    refusal = find_readout(model, recognize(model))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "13 patch tokens stand in front of the class tokens, which would have to come first"
