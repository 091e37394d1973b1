"""Alignments that cannot be: word for word."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.scan_surgery import Cuts, canonical_vim, reduce_vim
from support.surgery import canonical
from support.tiny_torch import Spelling
from support.tiny_vim import VimSpelling

import edgeprune
from edgeprune.core.errors import PlanError
from edgeprune.core.plan import Alignment, Option, StrategySpec, TokenCut
from edgeprune_passes.reduce_tokens import ReduceTokens

AFTER = "its score is of what the scans of the block give, which would run behind the cut"
MERGES = "it merges tokens, and what the scans of the block read is projected already"
HINT = "give --alignment gap, or --strategy ssm-delta --strategy-option merge=false"


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("ssm-output", {}, AFTER),
        ("ssm-runs", {}, AFTER),
        ("ssm-runs", {"merge": False}, AFTER),
        ("ssm-delta", {}, MERGES),
    ],
    ids=str,
)
def test_no_choice_in_front_of_the_scans(name: str, options: dict[str, Option], why: str) -> None:
    model = canonical_vim(VimSpelling(), 1)
    with pytest.raises(PlanError) as caught:
        reduce_vim(model, Cuts(keep={0: 9}, strategy=name, options=options, alignment="exact"))
    assert caught.value.message == f"{name} cannot be aligned exactly in block 0: no cut in front of the scans: {why}"
    assert caught.value.hint == HINT


@pytest.mark.parametrize("alignment", ["gap", "bias", "exact"])
def test_nothing_to_align(alignment: Alignment, project: Path) -> None:
    message = f"`alignment` is {alignment}, and the model has no selective scan"
    hint = "leave out --alignment: attention has no state that decays"
    cuts = (TokenCut(block=0, keep=20, strategy=StrategySpec(name="tome")),)
    with pytest.raises(PlanError) as caught:
        ReduceTokens(cuts, alignment=alignment).apply(canonical(Spelling(), 1))
    assert (caught.value.message, caught.value.hint) == (message, hint)
    with pytest.raises(PlanError) as caught:
        edgeprune.plan(project / "demo" / "digits_vit.onnx", keep=0.8, options=edgeprune.Options(alignment=alignment))
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_attention_strategies_refuse_scans() -> None:
    model = canonical_vim(VimSpelling(token="first"), 1)
    with pytest.raises(PlanError, match="refuses block 0: not-applicable: the block has no attention"):
        reduce_vim(model, Cuts(keep={0: 9}, strategy="tome"))
