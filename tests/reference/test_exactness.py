"""Every strategy's surgery on a trained transformer, proved against the dense graph with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeprune.core.plan import Plan, StrategySpec, TokenCut
from edgeprune.core.recognition import recognize
from edgeprune_calibration.oracle import find_sites, prove
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.reduce_tokens import ReduceTokens

STRATEGIES = ("random", "uniform", "cls-topk", "mean-attention", "zero-tprune", "tome", "prune-merge", "ward-merge")
MIXED = ("tome", "cls-topk", "prune-merge")
CUTS = {0: 50, 2: 34, 3: 20}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("names", [*((name,) * 3 for name in STRATEGIES), MIXED], ids="/".join)
def test_cuts_are_exact(project: Path, names: tuple[str, ...], batch: int) -> None:
    dense = ir.load(project / "demo" / "digits_vit.onnx")
    Canonicalize(batch=batch).apply(dense)
    cuts = tuple(
        TokenCut(block=block, keep=keep, strategy=StrategySpec(name=name))
        for (block, keep), name in zip(CUTS.items(), names, strict=True)
    )
    plan = Plan(model_sha256="", inputs={}, patch_tokens=64, prefix_tokens=1, blocks=6, cuts=cuts)
    blocks = recognize(dense).blocks
    at = [str(cut.name) for cut in (blocks[b].cut for b in CUTS) if cut is not None]
    pruned = dense.clone()
    ReduceTokens(cuts, "auto").apply(pruned)
    images = np.load(project / "demo" / "digits_test.npz")["image"]
    feeds = [((), {"image": images[i : i + batch]}) for i in (0, 40)]
    result = prove(dense, pruned, plan, find_sites(pruned, plan, at), feeds, threads=1)
    assert result.passed
    assert result.max_abs_error < 5e-5  # logits of a few units after three merges in fp32
    assert result.sensitivity > 1e-2
