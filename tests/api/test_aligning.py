"""Strategy and alignment of a model of scans: chosen by drift with data, by rule without, or asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.scan_models import Hybrid, canonical_scan
from support.scan_surgery import canonical_vim
from support.tiny_vim import VimSpelling

import edgeprune
from edgeprune.core.errors import PlanError
from edgeprune.core.plan import Alignment, read_plan
from edgeprune.report.verdict import chosen_candidate

SPELLING = VimSpelling(depth=4, side=24)
ASKED = edgeprune.Options(threads=1, search=0, engine=False)


@pytest.fixture(scope="module")
def vim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Vim: 4 blocks, 36 patch tokens with the class token in their middle."""
    path = tmp_path_factory.mktemp("vim") / "vim.onnx"
    ir.save(canonical_vim(SPELLING, 2), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "images.npz"
    images = np.random.default_rng(0).standard_normal((10, 3, SPELLING.side, SPELLING.side)).astype(np.float32)
    np.savez(path, image=images)
    return path


@pytest.fixture(scope="module")
def chosen(vim: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> edgeprune.Result:
    """What `--strategy auto --alignment auto` takes with data."""
    return edgeprune.compile(
        vim, keep=0.7, out=tmp_path_factory.mktemp("out"), options=replace(ASKED, data=data, force=True)
    )


def test_with_data_the_pair_that_drifts_least_is_taken(chosen: edgeprune.Result) -> None:
    tried = {candidate.name: candidate for candidate in chosen.report.strategy.candidates}
    for strategy in ("ssm-runs", "ssm-delta", "ssm-delta (merge=false)", "ssm-output"):
        assert f"{strategy}, neighbours" in tried
    assert {name.rpartition(", ")[2] for name in tried} == {"none", "gap", "bias", "exact", "neighbours", "stand-in"}
    best = min(tried.values(), key=lambda candidate: candidate.score if candidate.score is not None else np.inf)
    spec = chosen.plan.cuts[0].strategy
    assert best.name == f"{spec}, {chosen.plan.alignment}" == chosen_candidate(chosen.report)


def test_what_was_chosen_is_proved(chosen: edgeprune.Result) -> None:
    proof = chosen.report.validation
    assert proof.identity
    assert proof.exactness is not None
    assert proof.exactness.passed
    assert read_plan(chosen.out / "plan.json") == chosen.plan


@pytest.mark.parametrize("alignment", ["none", "gap", "bias", "exact", "neighbours", "stand-in"])
def test_an_alignment_that_is_asked_for_is_taken(vim: Path, alignment: Alignment) -> None:
    plan = edgeprune.plan(vim, keep=0.8, options=replace(ASKED, alignment=alignment))
    assert plan.alignment == alignment
    # In front of a scan nothing can be chosen by what it gives, and nothing merged.
    assert str(plan.cuts[0].strategy) == ("ssm-delta (merge=false)" if alignment == "exact" else "ssm-runs")


def test_without_data_neighbours_are_true(vim: Path) -> None:
    assert edgeprune.plan(vim, keep=0.8, options=ASKED).alignment == "neighbours"
    assert edgeprune.plan(vim, keep=1.0, options=ASKED).alignment == "none"  # nothing is cut


def test_beside_attention_tokens_are_kept_without_a_score(tmp_path: Path) -> None:
    ir.save(canonical_scan(Hybrid("sasa"), 1), tmp_path / "hybrid.onnx")
    plan = edgeprune.plan(tmp_path / "hybrid.onnx", keep=0.8, options=ASKED)
    assert (plan.cuts[0].strategy.name, plan.alignment) == ("uniform", "neighbours")


def test_work_counts_the_tokens_that_a_block_sees(vim: Path) -> None:
    plan = edgeprune.plan(vim, keep=0.8, options=ASKED)
    before = (plan.patch_tokens, *plan.schedule()[:-1])
    assert sum(before) / (plan.blocks * plan.patch_tokens) == pytest.approx(0.8, abs=0.02)
    assert all(cut.block < plan.blocks - 1 for cut in plan.cuts)  # behind the last block nothing gets less


def test_what_stands_in_is_no_work_saved(vim: Path) -> None:
    plan = edgeprune.plan(vim, keep=0.8, options=replace(ASKED, alignment="stand-in"))
    before = (plan.patch_tokens, *plan.schedule()[:-1])
    assert sum(before) / (plan.blocks * plan.patch_tokens) < 0.75


@pytest.mark.parametrize("strategy", ["ssm-output", "ssm-runs", "ssm-delta"])
def test_exact_with_a_strategy_that_cannot_is_refused_at_once(vim: Path, strategy: str) -> None:
    with pytest.raises(PlanError, match=f"{strategy} cannot be aligned exactly in block 0") as caught:
        edgeprune.plan(vim, keep=0.8, options=replace(ASKED, strategy=strategy, alignment="exact"))
    assert "--alignment gap" in (caught.value.hint or "")
