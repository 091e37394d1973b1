"""A pruned Vim against PyTorch of the same pruning: each score, alignment and merge, both directions, batch 1 and 3."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from support.tiny_vim import VimSpelling, build, example, exported

from edgeprune.core.plan import Alignment, StrategySpec, TokenCut
from edgeprune_calibration.runner import Runner
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.reduce_tokens import ReduceTokens
from reference.vim_torch import Cut, Selection, VimReference, best, importance, run_heads, runs

KEEP = {0: 12, 1: 7}  # patch tokens, by block
EXACT = 1e-4  # relative, fp32 against fp64, as the issue asks; what is seen is below 1e-5


@lru_cache
def canonical(spelling: VimSpelling, batch: int) -> ir.Model:
    model = ir.from_proto(onnx.load_from_string(exported(spelling)))
    Canonicalize(batch=batch).apply(model)
    return model


def pruned(
    spelling: VimSpelling, batch: int, spec: StrategySpec, alignment: Alignment, keep: dict[int, int] = KEEP
) -> np.ndarray:
    """Logits of the graph with cuts."""
    model = canonical(spelling, batch).clone()
    cuts = tuple(TokenCut(block=block, keep=count, strategy=spec) for block, count in keep.items())
    ReduceTokens(cuts, alignment=alignment).apply(model)
    return next(iter(Runner(model, threads=1).run(example(spelling, batch)).values()))


def judged(spelling: VimSpelling, batch: int, alignment: Alignment, cuts: list[Cut]) -> np.ndarray:
    """Logits of the reference, in double precision."""
    weights = {name.removeprefix("vim."): value.double() for name, value in build(spelling).state_dict().items()}
    mode = "bias" if alignment == "exact" else alignment
    reference = VimReference(weights, alignment=mode, halved=spelling.halved, place=spelling.place)
    with torch.no_grad():
        return reference(torch.from_numpy(example(spelling, batch)["image"]).double(), cuts).numpy()


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def selection(name: str, keep: int) -> Selection:
    return runs(keep) if name == "ssm-runs" else best(lambda seen: importance(seen, name), keep)


CASES: list[tuple[str, bool, Alignment]] = [
    *(("ssm-output", False, alignment) for alignment in ("none", "gap", "bias")),
    *((name, merge, mode) for name in ("ssm-delta", "ssm-runs") for merge in (False, True) for mode in ("none", "gap")),
    ("ssm-delta", True, "bias"),
    ("ssm-runs", True, "bias"),
    ("ssm-delta", False, "exact"),
]


@pytest.mark.parametrize(("name", "merge", "alignment"), CASES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_two_cuts_are_those_of_the_reference(name: str, merge: bool, alignment: Alignment, batch: int) -> None:
    spelling = VimSpelling(form="scan", depth=3)
    options = {} if name == "ssm-output" else {"merge": merge}
    into = run_heads if name == "ssm-runs" else None
    cuts = [
        Cut(block=block, select=selection(name, keep), merge=merge, into=into, exact=alignment == "exact")
        for block, keep in KEEP.items()
    ]
    wanted = judged(spelling, batch, alignment, cuts)
    found = pruned(spelling, batch, StrategySpec(name=name, options=options), alignment)
    assert relative(found, wanted) < EXACT
    dense = judged(spelling, batch, "none", [])
    assert relative(wanted, dense) > 1e-2  # the cuts are felt
    if alignment != "none":
        naive = [replace(cut, exact=False) for cut in cuts]
        assert relative(wanted, judged(spelling, batch, "none", naive)) > 1e-3  # and so is the alignment
