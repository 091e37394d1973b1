"""The proof of cuts in front of selective scans: it holds for what surgery writes, and for nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from support.scan_surgery import SCAN, Cuts, canonical_vim, prove_vim, reduce_vim
from support.tiny_vim import example

from edgeprune.core.errors import PassError, ValidationError
from edgeprune.core.plan import Alignment
from edgeprune.core.recognition import recognize
from edgeprune.core.scans import is_selective_scan
from edgeprune_calibration._standing import check_likeness, standing_in
from edgeprune_calibration._survivors import Survivors, whole
from edgeprune_calibration.oracle import TOLERANCE, find_sites, prove

DEEP = replace(SCAN, depth=3)
ALIGNMENTS: tuple[Alignment, ...] = ("none", "gap", "bias", "exact", "neighbours", "stand-in")


@pytest.mark.parametrize(
    ("token", "alignment", "batch"),
    [
        ("middle", "none", 1),
        ("middle", "gap", 3),
        ("last", "bias", 1),
        ("middle", "exact", 3),
        ("none", "exact", 1),
        ("middle", "stand-in", 3),
    ],
)
def test_two_cuts_are_exact(token: str, alignment: Alignment, batch: int) -> None:
    spelling = replace(DEEP, token=token)  # type: ignore[arg-type]
    dense = canonical_vim(spelling, batch)
    pruned = dense.clone()
    plan = reduce_vim(pruned, Cuts(keep={0: 11, 1: 6}, alignment=alignment))
    result = prove_vim(dense, pruned, plan, spelling, batch)
    assert result.passed, result
    assert result.sensitivity > 0.1


@pytest.mark.parametrize(("alignment", "batch"), [("none", 3), ("bias", 1), ("stand-in", 3)])
def test_merged_tokens_are_exact(alignment: Alignment, batch: int) -> None:
    dense = canonical_vim(DEEP, batch)
    pruned = dense.clone()
    plan = reduce_vim(pruned, Cuts(keep={0: 11, 1: 6}, strategy="ssm-delta", alignment=alignment))
    assert prove_vim(dense, pruned, plan, DEEP, batch).passed


@pytest.mark.parametrize("written", ALIGNMENTS)
def test_another_alignment_is_seen(written: Alignment) -> None:
    dense = canonical_vim(DEEP, 1)
    pruned = dense.clone()
    plan = reduce_vim(pruned, Cuts(keep={1: 6}, alignment=written))
    for claimed in ALIGNMENTS:
        result = prove_vim(dense, pruned, replace(plan, alignment=claimed), DEEP, 1)
        assert result.passed == (written == claimed), (claimed, result)
        assert (result.max_abs_error < TOLERANCE) == (written == claimed)


def _scans_behind(model: ir.Model) -> list[ir.Node]:
    """The forward and the backward scan of the last block."""
    return [node for node in model.graph if is_selective_scan(node)][-2:]


@pytest.mark.parametrize("which", [0, 1])
def test_one_scan_that_is_not_aligned_is_seen(which: int) -> None:
    dense = canonical_vim(SCAN, 1)
    pruned = dense.clone()
    plan = reduce_vim(pruned, Cuts(keep={0: 9}, alignment="gap"))
    node = _scans_behind(pruned)[which]
    aligned = node.inputs[0].producer()  # type: ignore[union-attr]
    assert aligned is not None
    assert aligned.op_type == "Mul"
    node.replace_input_with(0, aligned.inputs[0])
    assert not prove_vim(dense, pruned, plan, SCAN, 1).passed


def test_gaps_of_the_wrong_direction_are_seen() -> None:
    dense = canonical_vim(SCAN, 1)
    pruned = dense.clone()
    plan = reduce_vim(pruned, Cuts(keep={0: 9}, alignment="gap"))
    forward, backward = (node.inputs[0].producer() for node in _scans_behind(pruned))  # type: ignore[union-attr]
    assert forward is not None
    assert backward is not None
    one, other = forward.inputs[1], backward.inputs[1]
    assert one is not other
    forward.replace_input_with(1, other)
    backward.replace_input_with(1, one)
    assert not prove_vim(dense, pruned, plan, SCAN, 1).passed


def test_a_convolution_that_sees_other_neighbours_is_seen() -> None:
    dense = canonical_vim(SCAN, 1)
    pruned = dense.clone()
    plan = reduce_vim(pruned, Cuts(keep={0: 9}))
    node = [node for node in pruned.graph if node.op_type == "Conv"][-1]
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    shifted = np.roll(weight.const_value.numpy(), 1, axis=-1)
    weight.const_value = ir.tensor(shifted, name=weight.name)
    assert not prove_vim(dense, pruned, plan, SCAN, 1).passed


@pytest.mark.parametrize(("strategy", "alignment"), [("random", "neighbours"), ("ssm-delta", "stand-in")])
def test_one_that_stands_in_where_another_should_is_refused(strategy: str, alignment: Alignment) -> None:
    dense = canonical_vim(SCAN, 1)
    pruned = dense.clone()
    plan = reduce_vim(pruned, Cuts(keep={0: 9}, strategy=strategy, alignment=alignment))
    standing = next(v for node in pruned.graph for v in node.outputs if v.name == "edgeprune/cut/0/standing")
    # Every place but the last takes the token that stands at the next one.
    shifted = ir.node("Gather", [standing, _ints(pruned, [*range(1, 17), 16])], {"axis": 1}, name="shifted")
    producer = standing.producer()
    assert producer is not None
    pruned.graph.insert_after(producer, shifted)
    ir.convenience.replace_all_uses_with(standing, shifted.outputs[0])
    shifted.replace_input_with(0, standing)
    standing.name, shifted.outputs[0].name = "before", standing.name
    with pytest.raises(PassError, match="at the place of a token that is gone stands another"):
        prove_vim(dense, pruned, plan, SCAN, 1)


def _ints(model: ir.Model, numbers: list[int]) -> ir.Value:
    tensor = ir.tensor(np.asarray(numbers, np.int64), name="shift")
    value = ir.Value(name="shift", const_value=tensor)
    model.graph.register_initializer(value)
    return value


def test_who_stands_in_must_be_the_most_alike() -> None:
    x = np.array([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.2]]], np.float32)
    before, after = whole(1, 4), Survivors(np.array([[0, 1, 2]]))
    right, wrong = (standing_in(before, after, np.array([[0, 1, 2, other]])) for other in (1, 2))
    check_likeness(x, before, right, range(0))
    with pytest.raises(PassError, match="most like it"):
        check_likeness(x, before, wrong, range(0))
    with pytest.raises(PassError, match="most like it"):
        check_likeness(x, before, right, range(1, 2))


def test_a_class_token_out_of_its_place_is_refused() -> None:
    spelling = replace(SCAN, token="middle")
    dense = canonical_vim(spelling, 1)
    pruned = dense.clone()
    plan = reduce_vim(pruned, Cuts(keep={0: 9}))
    with pytest.raises(PassError) as caught:
        prove_vim(dense, pruned, replace(plan, prefix_place=0), spelling, 1)
    assert "index of the cut in block 0 has shape (1, 10) with" in caught.value.message
    assert caught.value.message.endswith("first, expected (1, 10), prefix tokens first")


def test_a_convolution_that_looks_ahead_is_refused() -> None:
    dense = canonical_vim(SCAN, 1)
    pruned = dense.clone()
    plan = reduce_vim(pruned, Cuts(keep={0: 9}))
    sites = find_sites(pruned, plan, [str(block.cut.name) for block in recognize(dense).blocks[:1] if block.cut])
    node = [node for node in dense.graph if node.op_type == "Conv"][-1]
    node.attributes["pads"] = ir.AttrInt64s("pads", [2, 1])
    with pytest.raises(ValidationError, match="sees tokens behind its own"):
        prove(dense, pruned, plan, sites, [((), example(SCAN, 1))], threads=1)
