"""Tokens come back: dropped ones as they were last seen, merged ones as their group, each in its place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.surgery import canonical, forward, prove_cuts, reduce
from support.tiny_torch import Spelling, example

from edgeprune.core.errors import PlanError
from edgeprune.core.plan import Restore
from edgeprune_passes.registry import restores

STATES = Spelling(head="states")
MODES: list[Restore] = ["auto", "last-seen", "nearest", "soft", "residual-delta", "cluster", "unmerge"]
CHOICES = {"dropped": ("random", "k-centre"), "merged": ("ward-merge", "tome"), "both": ("random", "grid-cluster")}


def run(model: ir.Model, *names: str, batch: int = 2) -> list[np.ndarray]:
    """Outputs, then inner values by name."""
    values = {str(v.name): v for node in model.graph for v in node.outputs}
    model.graph.outputs.extend(values[name] for name in names)
    return list(forward(model, example(STATES, batch)).values())


@pytest.mark.parametrize("batch", [1, 2])
def test_a_dropped_token_is_as_it_was_at_its_cut(batch: int) -> None:
    dense, pruned = canonical(STATES, batch), canonical(STATES, batch)
    reduce(pruned, {0: 12, 1: 7}, "random", restore="last-seen")
    *states, at_0 = run(dense, "/blocks.0/Add_output_0", batch=batch)
    found = run(pruned, "edgeprune/cut/0/index", "edgeprune/cut/1/index", "edgeprune/cut/1/kept", batch=batch)
    first, second = found[3], found[4]
    for b in range(batch):
        dropped = np.setdiff1d(np.arange(26), first[b])
        np.testing.assert_allclose(found[0][b, first[b]], states[0][b, first[b]], atol=1e-5)  # as the dense block 0
        for state in found[:3]:
            np.testing.assert_array_equal(state[b, dropped], at_0[b, dropped])
        later = np.setdiff1d(first[b], first[b][second[b]])
        assert len(later) == 5
        assert not np.array_equal(found[1][b, later], found[0][b, later])
        np.testing.assert_array_equal(found[1][b, later], found[2][b, later])


@pytest.mark.parametrize("batch", [1, 2])
def test_a_merged_token_is_its_group(batch: int) -> None:
    pruned = canonical(STATES, batch)
    reduce(pruned, {0: 16}, "tome")
    names = [f"edgeprune/cut/0/{role}" for role in ("index", "source", "into")]
    *states, index, source, into = run(pruned, *names, batch=batch)
    for b in range(batch):
        assert sorted([*index[b], *source[b]]) == list(range(26))
        for state in states:
            np.testing.assert_array_equal(state[b, source[b]], state[b, into[b]])
            assert len(np.unique(state[b], axis=0)) == 17


def test_a_state_above_the_cut_is_untouched() -> None:
    dense, pruned = canonical(STATES, 1), canonical(STATES, 1)
    reduce(pruned, {1: 15}, "tome")
    wanted, found = run(dense, batch=1), run(pruned, batch=1)
    np.testing.assert_array_equal(found[0], wanted[0])
    assert not np.array_equal(found[1], wanted[1])


def test_keeping_all_restores_the_same_bits() -> None:
    dense, pruned = canonical(STATES, 2), canonical(STATES, 2)
    reduce(pruned, {0: 25, 2: 25}, "keep-all")
    for found, wanted in zip(run(pruned), run(dense), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", CHOICES)
@pytest.mark.parametrize("mode", MODES)
def test_every_state_is_what_the_formula_of_its_mode_says(mode: Restore, kind: str, batch: int) -> None:
    """Outputs of three blocks behind none, one and two cuts, all tokens of each, against numpy on the masked graph."""
    dense, pruned = canonical(STATES, batch), canonical(STATES, batch)
    if kind != "merged" and mode in {"cluster", "unmerge"}:
        with pytest.raises(PlanError, match=f"cannot be restored by {mode}: tokens were dropped"):
            reduce(pruned, {1: 16, 2: 9}, *CHOICES[kind], restore=mode)
        return
    plan = reduce(pruned, {1: 16, 2: 9}, *CHOICES[kind], restore=mode)
    named = {str(v.name).split("/")[2] for node in pruned.graph for v in node.outputs if "restored/" in str(v.name)}
    assert named == ({mode} if mode != "auto" else {"unmerge" if kind == "merged" else "residual-delta"})
    result = prove_cuts(dense, pruned, plan, [example(STATES, batch, seed) for seed in (1, 2)])
    assert result.passed, result
    assert result.max_abs_error < 1e-4 * result.max_abs_value


def test_the_proof_finds_a_stream_that_another_mode_restored() -> None:
    dense, pruned = canonical(STATES, 1), canonical(STATES, 1)
    plan = reduce(pruned, {1: 16}, "random", restore="soft")
    for value in (v for node in pruned.graph for v in node.outputs):
        value.name = str(value.name).replace("restored/soft", "restored/nearest")
    assert not prove_cuts(dense, pruned, plan, [example(STATES, 1)]).passed


@pytest.mark.parametrize("mode", sorted(restores()))
@pytest.mark.parametrize("strategy", ["keep-all", "tome"])
def test_keeping_all_restores_the_same_bits_in_every_mode(mode: Restore, strategy: str) -> None:
    dense, pruned = canonical(STATES, 2), canonical(STATES, 2)
    reduce(pruned, {0: 25, 2: 25}, strategy, restore=mode)
    for found, wanted in zip(run(pruned), run(dense), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_last_residual_reads_the_short_stream() -> None:
    """A tap right in front of the last block: its attention branch is short, and so is what it is added to."""
    pruned = canonical(STATES, 1)
    reduce(pruned, {0: 12}, "random", restore="soft")
    assert not any("companion" in str(node.name) and node.op_type == "Gather" for node in pruned.graph)
    add = next(node for node in pruned.graph if str(node.outputs[0].name) == "/blocks.2/Add_output_0")
    assert all(value is not None and value.shape is not None and value.shape[1] == 13 for value in add.inputs)
