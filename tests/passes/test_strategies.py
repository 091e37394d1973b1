"""importance-merge against its formula in plain numpy; how far one cut of each strategy can go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.kinds import ATTENTION

from edgeprune.core.plan import Option, StrategySpec, TokenCut
from edgeprune.core.recognition import recognize
from edgeprune_calibration.runner import Runner
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.reduce_tokens import ReduceTokens
from edgeprune_passes.registry import make_strategy

BATCH, PATCHES = 2, 64
CUTS = {1: 41, 3: 25}  # patch tokens kept, by block


@pytest.fixture(scope="module")
def digits() -> ir.Model:
    """The demo's model, canonical, at batch 2."""
    model = ir.load(Path(__file__).resolve().parents[2] / "demo" / "digits_vit.onnx")
    Canonicalize(batch=BATCH).apply(model)
    return model


def reduced(digits: ir.Model, spec: StrategySpec, kept: dict[int, int]) -> ir.Model:
    """The model after cuts."""
    model = digits.clone()
    ReduceTokens(tuple(TokenCut(block=b, keep=k, strategy=spec) for b, k in kept.items()), "auto").apply(model)
    return model


def images(project: Path) -> np.ndarray:
    """Two digits."""
    return np.asarray(np.load(project / "demo" / "digits_test.npz")["image"][5 : 5 + BATCH])


def watched(model: ir.Model, streams: dict[int, str], image: np.ndarray) -> dict[int, dict[str, np.ndarray]]:
    """By block: stream and probabilities in front of the cut, and the index, sizes and stream that it wrote."""
    values = {value.name: value for node in model.graph for value in node.outputs}
    softmaxes = [node for node in model.graph if node.op_type == "Softmax" and "edgeprune" not in str(node.name)]
    wanted = {}
    for block, stream in streams.items():
        wrote = {role: f"edgeprune/cut/{block}/{role}" for role in ("index", "size", "stream")}
        wanted[block] = {"x": stream, "probs": str(softmaxes[block].outputs[0].name), **wrote}
    names = dict.fromkeys(name for roles in wanted.values() for name in roles.values())
    model.graph.outputs.extend(values[name] for name in names)
    found = Runner(model, threads=1).run({"image": image})
    return {b: {role: found[name].astype(np.float64) for role, name in roles.items()} for b, roles in wanted.items()}


def importance_merge(
    x: np.ndarray, row: np.ndarray, size: np.ndarray, keep: int, floor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index, stream and sizes of one sample, pair by pair; x [T,D], row [N] of the class token, one prefix token."""
    importance = np.concatenate([[1.0], row * len(row) + floor])
    ranks = sorted(range(1, len(x)), key=lambda i: -importance[i])
    partner, loss = {}, {}
    for giver in ranks[1::2]:
        cosines = {t: x[giver] @ x[t] / np.linalg.norm(x[giver]) / np.linalg.norm(x[t]) for t in ranks[0::2]}
        partner[giver] = max(cosines, key=lambda t: cosines[t])
        loss[giver] = importance[giver] * (1 - cosines[partner[giver]])
    groups = {i: [i] for i in range(len(x))}
    for giver in sorted(loss, key=lambda i: loss[i])[: len(row) - keep]:
        groups[partner[giver]] += groups.pop(giver)
    index = sorted(groups)
    stream = np.stack([np.average(x[groups[i]], axis=0, weights=importance[groups[i]]) for i in index])
    return np.array(index), stream, np.array([size[groups[i]].sum() for i in index])


@pytest.mark.parametrize("options", [{}, {"floor": 1.5}], ids=str)
def test_importance_merge_is_its_formula(digits: ir.Model, project: Path, options: dict[str, Option]) -> None:
    streams = {b: str(block.cut.name) for b, block in enumerate(recognize(digits).blocks) if b in CUTS and block.cut}
    model = reduced(digits, StrategySpec(name="importance-merge", options=options), CUTS)
    found = watched(model, streams, images(project))
    size = np.ones((BATCH, PATCHES + 1))
    for block, keep in CUTS.items():
        seen = found[block]
        sizes = []
        for b in range(BATCH):
            row = seen["probs"][b, :, 0, 1:].mean(0)
            wanted = importance_merge(seen["x"][b], row, size[b], keep, float(options.get("floor", 0.3)))
            np.testing.assert_array_equal(seen["index"][b], wanted[0])
            np.testing.assert_allclose(seen["stream"][b], wanted[1], rtol=1e-4, atol=1e-5)  # fp32 against fp64
            np.testing.assert_allclose(seen["size"][b], wanted[2], rtol=1e-6)
            sizes.append(wanted[2])
        size = np.stack(sizes)


@pytest.mark.parametrize("name", [name for name in ATTENTION if name != "keep-all"])
def test_one_cut_can_keep_the_fewest_that_a_strategy_promises(digits: ir.Model, project: Path, name: str) -> None:
    fewest = make_strategy(StrategySpec(name=name)).fewest(PATCHES, 1)
    model = reduced(digits, StrategySpec(name=name), {2: fewest})
    index = next(v for node in model.graph for v in node.outputs if v.name == "edgeprune/cut/2/index")
    model.graph.outputs.append(index)
    found = Runner(model, threads=1).run({"image": images(project)})
    assert found.pop("edgeprune/cut/2/index").shape == (BATCH, fewest + 1)
    assert all(np.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_merging_in_pairs_needs_a_partner_for_each(prefix: int) -> None:
    tome, ours = (make_strategy(StrategySpec(name=name)) for name in ("tome", "importance-merge"))
    for patches in (1, 2, 9, 64):
        evens = sum(1 for token in range(0, patches + prefix, 2) if token >= prefix)
        assert tome.fewest(patches, prefix) == patches - evens
        assert ours.fewest(patches, prefix) == -(-patches // 2)
