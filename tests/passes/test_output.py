"""Tokens that leave: every strategy against its formula in PyTorch, token for token; the surgery around them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from reference.leaving import STRATEGIES
from support.tiny_vlm import COLUMNS, LANGUAGE, ROWS, WIDTH, Tower, canonical, pixels, run

from edgeprune.core.costs import node_macs
from edgeprune.core.errors import PassError
from edgeprune.core.graph import static_shape
from edgeprune.core.plan import Option, OutputCut, Plan, StrategySpec, TokenCut
from edgeprune.core.readout import KEPT_INDICES, ReadOut, find_readout
from edgeprune.core.recognition import recognize
from edgeprune_calibration.oracle import find_sites, prove
from edgeprune_calibration.runner import Runner
from edgeprune_passes.apply import apply_plan

CLIP, SIGLIP = Tower(), Tower(kind="siglip", projector="linear")
DEEP = [
    Tower(blocks=4),
    Tower(kind="siglip"),
    Tower(projector="gated", blocks=4),
    Tower(projector="none", blocks=4),
    Tower(projector="flat", blocks=4),
    Tower(kind="siglip", projector="none"),  # what is read out is an output itself
    Tower(kind="siglip", projector="none", bare=True),
    Tower(kind="siglip", layers=2, blocks=4),
]
TOWERS = pytest.mark.parametrize("tower", [CLIP, SIGLIP], ids=["clip", "siglip"])
PATCHES = ROWS * COLUMNS
NO_TIE = 1e-5  # fp32 sums in another order move a score by some 1e-7 of it

CASES: list[tuple[str, dict[str, Option]]] = [
    ("fopru-rank", {}),
    ("fopru-rank", {"score": "column-mean"}),
    ("fopru-rank", {"score": "global-queries"}),
    ("fopru-rank", {"score": "global-queries", "threshold": 1.2}),
    ("fopru-row", {}),
    ("fopru-row", {"score": "column-mean"}),
    ("divprune", {}),
    ("visionzip", {}),
    ("visionzip", {"contextual": 0.5}),
    ("holov", {"crops": 4}),
    ("holov", {"crops": 7, "alpha": 2.0}),
    ("holov", {"crops": 1}),
]


def planned(model: ir.Model, keep: int, name: str, options: dict[str, Option], *cuts: TokenCut) -> Plan:
    found = recognize(model)
    spec = StrategySpec(name=name, options=options)
    return Plan(
        model_sha256="",
        inputs={},
        patch_tokens=PATCHES,
        prefix_tokens=found.found.prefix,
        blocks=len(found.blocks),
        cuts=cuts,
        output=OutputCut(keep=keep, strategy=spec),
    )


def cut(model: ir.Model, keep: int, name: str, options: dict[str, Option] | None = None, *cuts: TokenCut) -> ir.Model:
    copy = model.clone()
    apply_plan(copy, planned(model, keep, name, options or {}, *cuts))
    return copy


def exact(dense: ir.Model, pruned: ir.Model, plan: Plan, feed: dict[str, np.ndarray]):
    found = recognize(dense)
    readout = find_readout(dense, found)
    assert isinstance(readout, ReadOut)
    at = [str(found.blocks[c.block].cut.name) for c in plan.cuts] + [str(readout.value.name)]
    return prove(dense, pruned, plan, find_sites(pruned, plan, at), [((), feed)], threads=1)


@TOWERS
@pytest.mark.parametrize(("dynamo", "batch"), [(False, 1), (True, 4)], ids=["torchscript-1", "dynamo-4"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_same_tokens_leave_as_in_pytorch(tower, dynamo, batch, name, options):
    dense = canonical(tower, batch, dynamo=dynamo)
    for keep in (12, 6, *((9, 4) if name == "fopru-row" else ())):
        for seed in range(3):
            feed = pixels(batch, seed)
            seen, model = run(tower, feed)
            wanted = STRATEGIES[name](seen, keep, **options)
            if wanted.gap > NO_TIE:
                break
        assert wanted.gap > NO_TIE
        found = Runner(cut(dense, keep, name, options), threads=1).run(feed)
        np.testing.assert_array_equal(found[KEPT_INDICES], wanted.kept.numpy())
        with torch.no_grad():
            rows = model.project(wanted.x).numpy()
        output = next(value for key, value in found.items() if key != KEPT_INDICES)
        np.testing.assert_allclose(output, rows, atol=2e-6)  # sums of 24 to 48 products of size one


@TOWERS
@pytest.mark.parametrize("name", STRATEGIES)
def test_keeping_every_token_is_the_identity(tower, name):
    dense, feed = canonical(tower, 2), pixels(2)
    want = Runner(dense, threads=1, optimise=False).run(feed)
    found = Runner(cut(dense, PATCHES, name), threads=1, optimise=False).run(feed)
    for key, value in want.items():
        np.testing.assert_array_equal(found[key], value)
    np.testing.assert_array_equal(found[KEPT_INDICES], np.tile(np.arange(PATCHES), (2, 1)))


@pytest.mark.parametrize("name", ["divprune", "visionzip", "holov"])
@pytest.mark.parametrize("tower", DEEP, ids=lambda t: f"{t.kind}-{t.projector}-{t.layers}{t.bare}")
def test_cuts_inside_the_tower_compose_to_the_dense_grid(tower, name):
    dense, feed = canonical(tower, 2), pixels(2)
    inside = (
        TokenCut(block=0, keep=20, strategy=StrategySpec(name="random")),
        TokenCut(block=1, keep=15, strategy=StrategySpec(name="tome")),
    )
    plan = planned(dense, 6, name, {}, *inside)
    pruned = cut(dense, 6, name, None, *inside)
    proof = exact(dense, pruned, plan, feed)
    assert proof.passed, proof
    assert proof.sensitivity > 0.01
    assert Runner(pruned, threads=1).run(feed)[KEPT_INDICES].shape == (2, 6)


@TOWERS
@pytest.mark.parametrize("name", STRATEGIES)
def test_what_leaves_is_the_dense_output_or_its_merge(tower, name):
    dense, feed = canonical(tower, 2), pixels(2)
    proof = exact(dense, cut(dense, 6, name), planned(dense, 6, name, {}), feed)
    assert proof.passed, proof
    assert proof.sensitivity > 0.01


def test_the_proof_bites_where_a_wrong_row_leaves():
    dense, feed = canonical(CLIP, 2), pixels(2)
    pruned = cut(dense, 6, "fopru-rank")
    node = next(n for n in pruned.graph if n.name == "edgeprune/output/kept")
    node.replace_input_with(1, _constant(pruned, np.arange(7, dtype=np.int64)[None, :, None].repeat(2, 0)))
    assert not exact(dense, pruned, planned(dense, 6, "fopru-rank", {}), feed).passed


def test_the_proof_bites_where_other_patches_are_named():
    dense, feed = canonical(CLIP, 2), pixels(2)
    pruned = cut(dense, 6, "fopru-rank")
    told = next(v for v in pruned.graph.outputs if v.name == KEPT_INDICES).producer()
    told.replace_input_with(1, _constant(pruned, np.array([2], np.int64)))
    with pytest.raises(PassError, match="does not name the patches that leave"):
        exact(dense, pruned, planned(dense, 6, "fopru-rank", {}), feed)


def _constant(model: ir.Model, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name="wrong")
    value = ir.Value(name="wrong", const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    model.graph.register_initializer(value)
    return value


@pytest.mark.parametrize("dynamo", [False, True])
def test_dead_blocks_go_and_the_projector_shrinks(dynamo):
    tower = Tower(dead=True)
    dense = canonical(tower, 1, dynamo=dynamo)
    found = recognize(dense)
    assert len(found.blocks) == tower.blocks - 1  # the last one feeds nothing
    readout = find_readout(dense, found)
    assert isinstance(readout, ReadOut)
    assert (readout.block, len(readout.projector)) == (1, 2)
    pruned = cut(dense, 6, "divprune")
    sizes = [sum(map(node_macs, _products(m))) for m in (dense, pruned)]
    assert sizes == [n * (WIDTH * LANGUAGE + LANGUAGE * LANGUAGE) for n in (PATCHES, 6)]
    assert [static_shape(v) for v in pruned.graph.outputs] == [(1, 6, LANGUAGE), (1, 6)]
    assert [v.dtype for v in pruned.graph.outputs] == [ir.DataType.FLOAT, ir.DataType.INT64]


def _products(model: ir.Model) -> list[ir.Node]:
    return [
        n
        for n in model.graph
        if n.op_type in {"MatMul", "Gemm"} and (static_shape(n.outputs[0]) or (0,))[-1] == LANGUAGE
    ]


def test_a_class_output_beside_the_tokens_stays_as_it_was():
    tower = Tower(dead=True, pooled="class")
    dense, feed = canonical(tower, 2), pixels(2)
    readout = find_readout(dense, recognize(dense))
    assert isinstance(readout, ReadOut)
    assert len(recognize(dense).blocks) == tower.blocks  # the last block feeds the class token
    pruned, want = cut(dense, 6, "fopru-rank"), Runner(dense, threads=1).run(feed)
    found = Runner(pruned, threads=1).run(feed)
    name = str(dense.graph.outputs[1].name)
    np.testing.assert_allclose(found[name], want[name], atol=1e-6)
    assert readout.block == tower.blocks - 2


def test_equal_tokens_are_chosen_once():
    dense = canonical(SIGLIP, 1)
    place = next(v for v in dense.graph.initializers.values() if static_shape(v) == (1, PATCHES, WIDTH))
    place.const_value = ir.tensor(np.zeros((1, PATCHES, WIDTH), np.float32), name=place.name)
    feed = {"x": np.ones((1, 3, 16, 24), np.float32)}
    kept = Runner(cut(dense, 6, "divprune"), threads=1).run(feed)[KEPT_INDICES]
    assert len(set(kept[0].tolist())) == 6
