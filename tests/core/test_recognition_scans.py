"""Blocks of selective scans: what belongs to one, where it is cut, which tokens stay; and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.scan_models import PATCHES, Causal, CrossBlock, Grid, GridBlock, Hybrid, canonical_scan
from support.scan_surgery import SCAN, canonical_vim

from edgeprune.core.costs import token_cost
from edgeprune.core.graph import name_of
from edgeprune.core.recognition import recognize
from edgeprune_passes.eliminate_tail import EliminateTail
from edgeprune_passes.registry import strategies
from edgeprune_passes.selection import first_refusal


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("token", "prefix", "place"), [("middle", 1, 8), ("first", 1, 0), ("last", 1, 16), ("none", 0, 0)]
)
def test_the_class_token_is_found_where_it_stands(token: str, prefix: int, place: int, batch: int) -> None:
    stream = recognize(canonical_vim(replace(SCAN, token=token), batch)).found  # type: ignore[arg-type]
    assert (stream.patches, stream.prefix, stream.place, stream.batch) == (16, prefix, place, batch)
    assert (stream.kind, stream.grid) == ("image", (4, 4))


@pytest.mark.parametrize("spelling", [SCAN, replace(SCAN, two_streams=True), replace(SCAN, halved=True)], ids=str)
def test_both_directions_are_one_block(spelling: object) -> None:
    found = recognize(canonical_vim(spelling, 1))  # type: ignore[arg-type]
    assert [(len(block.attentions), len(block.scans)) for block in found.blocks] == [(0, 2), (0, 2)]
    for block in found.blocks:
        assert [scan.flipped for scan in block.scans] == [False, True]
        assert block.mixers == tuple(scan.node for scan in block.scans)
        assert block.cut is not None
        assert block.cut.shape == (1, 17, 16)


def test_a_scan_has_its_parts() -> None:
    forward, backward = recognize(canonical_vim(SCAN, 1)).blocks[0].scans
    assert (forward.channels, forward.states) == (32, 4)
    for scan in (forward, backward):
        assert scan.output.producer().op_type == "Add"  # type: ignore[union-attr]  # behind the skip
        assert scan.output is not scan.node.outputs[0]
    assert [name_of(scan.bias) for scan in (forward, backward) if scan.bias] == [
        "vim.blocks.0.forwards.dt_proj.bias",
        "vim.blocks.0.backwards.dt_proj.bias",
    ]


def test_of_scans_that_run_forward_alone_the_last_token_stays() -> None:
    found = recognize(canonical_scan(Causal(), text=True))
    assert (found.found.kind, found.found.tokens, found.found.prefix, found.found.place) == ("text", 14, 1, 13)
    assert [[scan.flipped for scan in block.scans] for block in found.blocks] == [[False]] * 3


@pytest.mark.parametrize("middle", [True, False])
@pytest.mark.parametrize("blocks", ["sas", "as"])
def test_blocks_of_attention_and_of_scans_stand_side_by_side(blocks: str, *, middle: bool) -> None:
    found = recognize(canonical_scan(Hybrid(blocks, middle=middle)))
    assert [bool(block.scans) for block in found.blocks] == [kind == "s" for kind in blocks]
    assert [bool(block.attentions) for block in found.blocks] == [kind == "a" for kind in blocks]
    assert all(block.cut is not None for block in found.blocks)
    assert found.found.place == (PATCHES // 2 if middle else 0)


def test_a_class_token_among_patches_needs_a_scan() -> None:
    found = recognize(canonical_scan(Hybrid("aa")))
    assert [str(refusal) for refusal in found.refusals] == [
        "slice-inside-patches: the tokens are cut in two at 8 (Slice node) at /Slice_1"
    ]


@pytest.mark.parametrize("name", ["plainmamba", "snake", "vmamba"])
def test_scans_that_are_bound_to_a_grid_are_refused(name: str) -> None:
    made = {
        "plainmamba": lambda: Grid(GridBlock(), GridBlock()),
        "snake": lambda: Grid(GridBlock(convolved=False), GridBlock(convolved=False)),
        "vmamba": lambda: Grid(CrossBlock(), CrossBlock(), picture=True),
    }
    words = {
        "plainmamba": "convolution-over-tokens: a 2-D convolution inside the block needs the whole patch grid"
        " (Conv node) at /blocks.0/conv/Conv",
        "snake": "position-bound: a constant index puts all tokens in another order (Gather node) at /blocks.0/Gather",
        "vmamba": "position-bound: the patch grid is read in another order than the tokens' (Concat node)"
        " at /blocks.0/Concat_2",
    }
    found = recognize(canonical_scan(made[name]()))
    assert found.stream is None
    assert str(found.refusals[0]) == words[name]


def test_attention_strategies_refuse_a_block_without_attention() -> None:
    found = recognize(canonical_vim(replace(SCAN, token="first"), 1))
    nodes = ", ".join(map(name_of, found.blocks[0].mixers))
    for name in ("cls-topk", "mean-attention", "zero-tprune", "tome", "prune-merge", "importance-merge", "visionzip"):
        refusal = first_refusal(strategies()[name](), found)
        assert str(refusal) == f"not-applicable: the block has no attention at {nodes}"


def test_strategies_that_take_class_tokens_to_come_first_refuse_others() -> None:
    found = recognize(canonical_vim(SCAN, 1))
    reason = "position-bound: it takes class tokens to come first, but here 8 patch tokens stand in front of them"
    refused = {name: first_refusal(made(), found) for name, made in strategies().items()}
    anywhere = {"keep-all", "uniform", "random", "ssm-output", "ssm-delta", "ssm-runs"}
    assert {name for name, refusal in refused.items() if refusal is None} == anywhere
    assert {str(refusal) for refusal in refused.values() if refusal is not None} == {reason}


def test_what_scans_cost_grows_with_the_tokens_not_with_their_square() -> None:
    model = canonical_vim(replace(SCAN, depth=3), 1)
    cost = token_cost(model, recognize(model))
    assert cost.square == (0.0,) * len(cost.linear)
    assert len(set(cost.linear)) == 1  # the blocks are alike
    assert cost.linear[0] > 0
    assert cost.macs((17, 17, 17)) - cost.macs((17, 17, 16)) == cost.linear[-1]


def test_the_tail_of_scans_is_left_as_it_is() -> None:
    model = canonical_vim(SCAN, 1)
    result = EliminateTail().apply(model)
    assert result.changes == 0
    reason = "the last block has no attention with rows to leave out"
    assert [refusal.reason for refusal in result.refusals] == [reason]
