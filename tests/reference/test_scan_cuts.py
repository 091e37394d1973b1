"""A pruned Vim against PyTorch of the same pruning: each score, alignment and merge, both directions, batch 1 and 3."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.scan_surgery import Cuts, canonical_vim, reduce_vim
from support.tiny_vim import VimSpelling, build, example

from edgeprune.core.plan import Alignment, Option
from edgeprune_calibration.runner import Runner
from reference.vim_torch import Cut, Selection, VimReference, best, importance, run_heads, runs

KEEP = {0: 12, 2: 7}  # patch tokens, by block
EXACT = 1e-4  # relative, fp32 against fp64, as the issue asks; what is seen is below 1e-5


def pruned(spelling: VimSpelling, batch: int, cuts: Cuts) -> np.ndarray:
    """Logits of the graph with cuts."""
    model = canonical_vim(spelling, batch)
    reduce_vim(model, cuts)
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


PLACES = {
    "middle": VimSpelling(depth=4),
    "first": VimSpelling(depth=4, token="first", halved=True),
    "last": VimSpelling(depth=4, token="last", two_streams=True),
    "none": VimSpelling(depth=4, token="none"),
}


@pytest.mark.parametrize(("name", "merge", "alignment"), CASES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_two_cuts_are_those_of_the_reference(name: str, merge: bool, alignment: Alignment, batch: int) -> None:
    compare(PLACES["middle"], batch, name, merge, alignment)


@pytest.mark.parametrize(("name", "merge", "alignment"), [("ssm-delta", False, "exact"), ("ssm-runs", True, "gap")])
@pytest.mark.parametrize("place", ["first", "last", "none"])
def test_wherever_the_class_token_stands(place: str, name: str, merge: bool, alignment: Alignment) -> None:
    compare(PLACES[place], 3, name, merge, alignment)


@pytest.mark.parametrize("alignment", ["none", "gap"])
@pytest.mark.parametrize("batch", [1, 3])
def test_runs_become_their_means(batch: int, alignment: Alignment) -> None:
    compare(PLACES["middle"], batch, "ssm-runs", True, alignment, in_front=True)


def compare(
    spelling: VimSpelling, batch: int, name: str, merge: bool, alignment: Alignment, *, in_front: bool = False
) -> None:
    """The graph's logits are the reference's, and cuts and alignment are felt."""
    options: dict[str, Option] = {} if name == "ssm-output" else {"merge": merge}
    if in_front:
        options["in_front"] = True
    into = run_heads if in_front else None
    cuts = [
        Cut(block=block, select=selection(name, keep), merge=merge, into=into, exact=alignment == "exact")
        for block, keep in KEEP.items()
    ]
    wanted = judged(spelling, batch, alignment, cuts)
    found = pruned(spelling, batch, Cuts(keep=KEEP, strategy=name, options=options, alignment=alignment))
    assert relative(found, wanted) < EXACT
    assert relative(wanted, judged(spelling, batch, "none", [])) > 1e-2  # the cuts are felt
    if alignment != "none":
        naive = [replace(cut, exact=False) for cut in cuts]
        assert relative(wanted, judged(spelling, batch, "none", naive)) > 1e-3  # and so is the alignment
