"""Tokens come back: dropped ones as they were last seen, merged ones as their group, each in its place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.surgery import canonical, forward, reduce
from support.tiny_torch import Spelling, example

STATES = Spelling(head="states")


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
