"""Stand-ins behind a cut against PyTorch of the same: convolution and scan over all places, dropped or merged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.scan_surgery import canonical_vim
from support.tiny_vim import VimSpelling, build, example

from edgeprune.core.plan import Alignment, StrategySpec, TokenCut
from edgeprune_calibration.runner import Runner
from edgeprune_passes.reduce_tokens import ReduceTokens
from reference.vim_torch import Cut, StandIns, VimReference, best, importance

KEEP = {0: 12, 2: 7}  # patch tokens, by block
EXACT = 1e-4  # relative, fp32 against fp64; what is seen is below 1e-5


def pruned(spelling: VimSpelling, batch: int, spec: StrategySpec, alignment: Alignment = "stand-in") -> np.ndarray:
    model = canonical_vim(spelling, batch)
    cuts = tuple(TokenCut(block=block, keep=keep, strategy=spec) for block, keep in KEEP.items())
    ReduceTokens(cuts, alignment=alignment).apply(model)
    return next(iter(Runner(model, threads=1).run(example(spelling, batch)).values()))


def judged(spelling: VimSpelling, batch: int, cuts: list[Cut], stand_ins: StandIns) -> np.ndarray:
    weights = {name.removeprefix("vim."): value.double() for name, value in build(spelling).state_dict().items()}
    reference = VimReference(weights, stand_ins=stand_ins, halved=spelling.halved, place=spelling.place)
    with torch.no_grad():
        return reference(torch.from_numpy(example(spelling, batch)["image"]).double(), cuts).numpy()


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


CASES = pytest.mark.parametrize(
    ("token", "name", "merge"),
    [
        ("middle", "ssm-output", False),
        ("middle", "ssm-delta", True),
        ("last", "ssm-delta", True),
        ("none", "ssm-delta", False),
    ],
)


@CASES
@pytest.mark.parametrize("batch", [1, 3])
def test_all_places_are_scanned_as_the_reference_does(token: str, name: str, merge: bool, batch: int) -> None:
    spelling = VimSpelling(depth=4, token=token)
    spec = StrategySpec(name=name, options={"merge": merge} if name == "ssm-delta" else {})
    cuts = [
        Cut(block=block, select=best(lambda seen: importance(seen, name), keep), merge=merge)
        for block, keep in KEEP.items()
    ]
    wanted = judged(spelling, batch, cuts, "scan")
    assert relative(pruned(spelling, batch, spec), wanted) < EXACT
    assert relative(wanted, judged(spelling, batch, cuts, "none")) > 1e-3  # the stand-ins are felt


@CASES
@pytest.mark.parametrize("batch", [1, 3])
def test_convolutions_meet_true_neighbours_as_the_reference_s_do(
    token: str, name: str, merge: bool, batch: int
) -> None:
    spelling = VimSpelling(depth=4, token=token)
    spec = StrategySpec(name=name, options={"merge": merge} if name == "ssm-delta" else {})
    cuts = [
        Cut(block=block, select=best(lambda seen: importance(seen, name), keep), merge=merge)
        for block, keep in KEEP.items()
    ]
    wanted = judged(spelling, batch, cuts, "convolution")
    assert relative(pruned(spelling, batch, spec, "neighbours"), wanted) < EXACT
    assert relative(wanted, judged(spelling, batch, cuts, "none")) > 1e-3  # the neighbours are felt
