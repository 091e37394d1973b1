"""What each strategy writes into a graph, against its formula in numpy: in two cuts one after another, at batch 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeprune.core.plan import Option, StrategySpec, TokenCut
from edgeprune.core.recognition import recognize
from edgeprune_calibration._survivors import merge_matrix
from edgeprune_calibration.runner import Runner
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.reduce_tokens import ReduceTokens
from reference import formulas

BATCH, PATCHES = 2, 64
CUTS = {1: 40, 3: 22}  # patch tokens kept, by block

CASES: list[tuple[str, dict[str, Option]]] = [
    ("keep-all", {}),
    ("uniform", {}),
    ("cls-topk", {}),
    ("mean-attention", {}),
    ("zero-tprune", {}),
    ("zero-tprune", {"votes": 4, "similar_share": 0.3}),
    ("zero-tprune", {"similar_share": 0.0}),
    ("tome", {}),
    ("prune-merge", {}),
    ("prune-merge", {"merge_share": 1.0}),
    ("prune-merge", {"merge_share": 0.4, "scale_sizes": False}),
    ("prune-merge", {"merge_share": 0.0}),
    ("ward-merge", {}),
    ("ward-merge", {"floor": 0.2}),
    ("k-centre", {}),
    ("k-centre", {"rounds": 7}),
    ("grid-cluster", {}),
    ("grid-cluster", {"rounds": 1, "locality": 0.02}),
]

# Of an 8x8 grid for 40 clusters: six rows of starts, alternately of six and seven. Behind the first cut: even spacing.
LINES = ((0, 7), (2, 6), (3, 7), (4, 7), (6, 6), (7, 7))


@pytest.fixture(scope="module")
def digits() -> ir.Model:
    """The demo's model, canonical, at batch 2."""
    model = ir.load(Path(__file__).resolve().parents[2] / "demo" / "digits_vit.onnx")
    Canonicalize(batch=BATCH).apply(model)
    return model


def taps(model: ir.Model, block: int, stream: str) -> dict[str, ir.Value]:
    """Stream, keys [B,H,Dh,T] and probabilities of a block; logits may have log(size) added in front of the softmax."""
    softmax = [node for node in model.graph if node.op_type == "Softmax" and "edgeprune" not in str(node.name)][block]
    scores = softmax.inputs[0]
    while scores is not None and scores.producer().op_type != "MatMul":
        scores = scores.producer().inputs[0]
    values = {value.name: value for node in model.graph for value in node.outputs}
    return {"x": values[stream], "k": scores.producer().inputs[1], "probs": softmax.outputs[0]}


def expected(name: str, options: dict[str, Option], seen: dict[str, np.ndarray], keep: int) -> formulas.Choice:
    """The formula's choice."""
    x, probs, size = seen["x"], seen["probs"], seen["size"]
    k, patches = seen["k"].transpose(0, 1, 3, 2), x.shape[1] - 1
    if name in {"ward-merge", "k-centre", "grid-cluster"}:
        return covering(name, options, seen, keep)
    removed = patches - keep
    match name:
        case "keep-all":
            return formulas.keep_all(x.shape[1], BATCH)
        case "uniform":
            return formulas.uniform(x.shape[1], BATCH, 1, keep)
        case "cls-topk":
            return formulas.cls_topk(probs, 1, keep)
        case "mean-attention":
            return formulas.mean_attention(probs, 1, keep)
        case "zero-tprune":
            drop = min(round(float(options.get("similar_share", 0.5)) * removed), patches // 2)
            return formulas.zero_tprune(probs, k, 1, keep, drop=drop, votes=int(options.get("votes", 1)))
        case "tome":
            return formulas.tome(k, size, 1, keep)
    pruned = keep + round(float(options.get("merge_share", 0.75)) * removed)
    return formulas.prune_merge(x, probs, size, 1, keep, pruned, scale=bool(options.get("scale_sizes", True)))


def covering(name: str, options: dict[str, Option], seen: dict[str, np.ndarray], keep: int) -> formulas.Choice:
    """The formula's choice of what covers all tokens; of clusters with the starts that the grid gives."""
    x, size = seen["x"], seen["size"]
    if name == "ward-merge":
        floor, k = float(options.get("floor", 1.0)), seen["k"].transpose(0, 1, 3, 2)
        return formulas.ward_merge(x, k, seen["probs"], size, 1, keep, floor=floor)
    if name == "k-centre":
        return formulas.k_centre(x, 1, keep, rounds=int(options.get("rounds", 4)))
    if x.shape[1] - 1 == PATCHES:
        places = np.stack(np.divmod(np.arange(PATCHES), 8), 1)
        starts = [8 * line + int((i + 0.5) * 8 / count) for line, count in LINES for i in range(count)]
    else:
        places, starts = None, [int((i + 0.5) * (x.shape[1] - 1) / keep) for i in range(keep)]
    rounds, locality = int(options.get("rounds", 3)), float(options.get("locality", 0.003))
    return formulas.grid_cluster(x, size, 1, keep, places, starts, rounds=rounds, locality=locality)


def reduced(digits: ir.Model, spec: StrategySpec, kept: dict[int, int]) -> tuple[ir.Model, dict[tuple[int, str], str]]:
    """The model after the cuts, what its strategies read and wrote as further outputs, and their names by block."""
    at = [str(block.cut.name) for block in recognize(digits).blocks if block.cut is not None]
    model = digits.clone()
    ReduceTokens(tuple(TokenCut(block=b, keep=k, strategy=spec) for b, k in kept.items()), "auto").apply(model)
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    names: dict[tuple[int, str], str] = {}
    for block in kept:
        names |= {(block, role): str(value.name) for role, value in taps(model, block, at[block]).items()}
        wrote = {
            role: f"edgeprune/cut/{block}/{role}" for role in ("index", "size", "source", "own", "weights", "scale")
        }
        names |= {(block, role): name for role, name in wrote.items() if name in values}
    model.graph.outputs.extend(values[name] for name in dict.fromkeys(names.values()))
    return model, names


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_emitted_choice_is_the_formulas(digits: ir.Model, project: Path, name: str, options: dict[str, Option]) -> None:
    kept = CUTS if name != "keep-all" else dict.fromkeys(CUTS, PATCHES)
    model, names = reduced(digits, StrategySpec(name=name, options=options), kept)
    images = np.load(project / "demo" / "digits_test.npz")["image"][5 : 5 + BATCH]
    found = Runner(model, threads=1).run({"image": images})
    size = np.ones((BATCH, PATCHES + 1))
    for block, keep in kept.items():
        seen = {role: found[value].astype(np.float64) for (b, role), value in names.items() if b == block}
        wanted = expected(name, options, {**seen, "size": size}, keep)
        index = seen["index"].astype(int)
        np.testing.assert_array_equal(index, wanted.index)
        assert ("weights" in seen) == (wanted.matrix is not None and bool((wanted.matrix.max(-1) < 1).any()))
        if "weights" in seen:
            matrix = merge_matrix(index, seen["source"].astype(int), seen["own"], seen["weights"], seen["x"].shape[1])
            np.testing.assert_allclose(matrix, wanted.matrix, atol=1e-5)  # fp32 cosines against fp64
            np.testing.assert_allclose(seen["size"], wanted.size, rtol=1e-5)  # as above
            size = seen["size"]
        if "scale" in seen:
            assert wanted.matrix is not None
            np.testing.assert_allclose(seen["scale"], formulas.lengthening(seen["x"], wanted.matrix), rtol=1e-5)
