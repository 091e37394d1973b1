"""The exactness proof: accepts hand-made surgery in every spelling, and finds what is wrong with a wrong graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from reference.tiny_vit import Cut, Spelling, build

from edgeprune.core.errors import PassError, PlanError, ValidationError
from edgeprune.core.plan import Plan, StrategySpec, TokenCut
from edgeprune.core.results import Exactness
from edgeprune_calibration.oracle import Comparison, CutSite, prove

DROP = np.array([[0, 2, 3, 5, 8, 9, 12, 14, 16]])
LATER = np.array([[0, 1, 4, 5, 8]])


def plan_of(spelling: Spelling, cuts: tuple[Cut, ...]) -> Plan:
    """The plan of hand-made cuts."""
    kept = tuple(
        TokenCut(block=cut.block, keep=cut.index.shape[1] - spelling.prefix, strategy=StrategySpec(name="by-hand"))
        for cut in cuts
    )
    shape = (spelling.batch, spelling.tokens, spelling.width)
    return Plan(
        model_sha256="",
        inputs={"x": shape},
        patch_tokens=spelling.patches,
        prefix_tokens=spelling.prefix,
        blocks=spelling.blocks,
        cuts=kept,
    )


def site(cut: Cut, *, size: bool) -> CutSite:
    """Where a hand-made cut stands."""
    name = f"edgeprune/cut/{cut.block}"
    merge = (f"{name}/matrix",) if cut.matrix is not None else ()
    return CutSite(
        block=cut.block,
        at=f"blocks.{cut.block}.mid",
        index=f"{name}/index",
        merge=merge,
        size=f"{name}/size" if size else None,
    )


def proof(spelling: Spelling, *cuts: Cut, compare: list[Comparison] | None = None) -> Exactness:
    """Prove hand-made surgery on two samples."""
    rng = np.random.default_rng(1)
    shape = (spelling.batch, spelling.tokens, spelling.width)
    feeds = [(("a",), {"x": rng.standard_normal(shape).astype(np.float32)}) for _ in range(2)]
    sized, sites = False, []
    for cut in cuts:
        sized = sized or cut.sized
        sites.append(site(cut, size=sized))
    return prove(build(spelling), build(spelling, cuts), plan_of(spelling, cuts), sites, feeds, compare=compare)


def averaging(index: np.ndarray, before: int) -> np.ndarray:
    """Every token that is not in `index` joins the nearest token of `index` that is no class token."""
    matrix = np.zeros((len(index), index.shape[1], before))
    for m, row in zip(matrix, index, strict=True):
        m[np.arange(len(row)), row] = 1
        for token in set(range(before)) - set(row.tolist()):
            m[1 + np.abs(row[1:] - token).argmin(), token] = 1
    return matrix / matrix.sum(-1, keepdims=True)


SPELLINGS = {
    "plain": Spelling(),
    "two prefix tokens": Spelling(prefix=2, patches=15),
    "attention operator": Spelling(operator=True),
    "talking heads": Spelling(talking=True),
    "relative position bias": Spelling(bias=True),
    "rows that the model masks itself": Spelling(masked_rows=True),
    "heads merged with batch": Spelling(merged_heads=True, batch=2),
    "tokens as many as channels": Spelling(patches=16, width=16),
    "mean over tokens": Spelling(head="mean"),
    "every token in the output": Spelling(head="tokens"),
    "restored": Spelling(head="tokens", restore=True),
    "batch": Spelling(batch=3),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_drop_is_exact_in_every_spelling(name: str) -> None:
    spelling = SPELLINGS[name]
    index = np.array([[0, 1, 2, 5, 8, 9, 12, 14, 16]])
    result = proof(spelling, Cut(block=0, index=index))
    assert result.passed
    assert result.max_abs_error < 1e-5  # fp32 sums in another order, values around 1
    assert result.sensitivity > 1e-2


def test_cuts_compose_and_samples_differ() -> None:
    spelling = Spelling(batch=2, bias=True)
    first = np.array([[0, 2, 3, 5, 8, 9, 12, 14, 16], [0, 1, 4, 6, 7, 10, 11, 13, 15]])
    second = np.array([[0, 1, 4, 5, 8], [0, 2, 3, 6, 7]])
    result = proof(spelling, Cut(block=0, index=first), Cut(block=1, index=second))
    assert result.passed
    assert result.max_abs_error < 1e-5


@pytest.mark.parametrize("operator", [False, True])
@pytest.mark.parametrize("sized", [False, True])
def test_merges_are_exact(*, operator: bool, sized: bool) -> None:
    spelling = Spelling(operator=operator)
    cuts = (
        Cut(block=0, index=DROP, matrix=averaging(DROP, 17), sized=sized),
        Cut(block=1, index=LATER, matrix=averaging(LATER, 9), sized=sized),
    )
    result = proof(spelling, *cuts)
    assert result.passed
    assert result.max_abs_error < 1e-5


def test_drop_after_a_sized_merge() -> None:
    merge = Cut(block=0, index=DROP, matrix=averaging(DROP, 17), sized=True)
    assert proof(Spelling(bias=True), merge, Cut(block=1, index=LATER)).passed


def test_wrong_token_is_found() -> None:
    wrong = DROP.copy()
    wrong[0, 4] = 7
    result = proof(Spelling(), Cut(block=0, index=DROP, used=wrong))
    assert not result.passed
    assert result.max_abs_error > 1e-3


def test_stale_companion_is_found() -> None:
    """A graph that cuts the stream rightly, but keeps the first rows of the position bias."""
    spelling = Spelling(bias=True)
    wrong = build(spelling, (Cut(block=0, index=np.arange(9)[None], used=DROP),))
    for name, value in wrong.graph.initializers.items():
        if name == "edgeprune/cut/0/const":
            value.const_value = build(spelling, (Cut(block=0, index=DROP),)).graph.initializers[name].const_value
    cut = Cut(block=0, index=DROP)
    feeds = [(("a",), {"x": np.random.default_rng(1).standard_normal((1, 17, 12)).astype(np.float32)})]
    result = prove(build(spelling), wrong, plan_of(spelling, (cut,)), [site(cut, size=False)], feeds)
    assert not result.passed


def test_forgotten_sizes_are_found() -> None:
    merge = Cut(block=0, index=DROP, matrix=averaging(DROP, 17), sized=True)
    spelling = Spelling()
    unsized = build(spelling, (replace(merge, sized=False),))
    name = "edgeprune/cut/0/sizes"
    sizes = build(spelling, (merge,)).graph.initializers[name].const_value
    unsized.graph.register_initializer(ir.Value(name=name, const_value=sizes))
    feeds = [(("a",), {"x": np.random.default_rng(1).standard_normal((1, 17, 12)).astype(np.float32)})]
    claim = replace(site(merge, size=True), size=name)
    result = prove(build(spelling), unsized, plan_of(spelling, (merge,)), [claim], feeds)
    assert not result.passed


def test_cut_that_nothing_attends_after_is_refused() -> None:
    cut = Cut(block=2, index=DROP)
    with pytest.raises(ValidationError, match="no attention over 17 tokens and no scan was found after block 2"):
        proof(Spelling(), cut)


def test_keeping_every_token_is_exact_without_sensitivity() -> None:
    result = proof(Spelling(), Cut(block=0, index=np.arange(17)[None]))
    assert result.passed
    assert result.sensitivity < 1e-5


def test_named_comparison_is_used() -> None:
    inner = [Comparison("norm", "norm", token_axis=1)]
    result = proof(Spelling(head="mean"), Cut(block=0, index=DROP), compare=inner)
    assert result.passed
    whole = [Comparison("y", "y")]  # a mean over fewer tokens is another mean
    assert not proof(Spelling(head="mean"), Cut(block=0, index=DROP), compare=whole).passed


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (np.array([[0, 2, 2, 5]]), "names a token twice"),
        (np.array([[1, 2, 3, 5]]), "prefix tokens first"),
    ],
)
def test_broken_index_is_our_bug(index: np.ndarray, message: str) -> None:
    with pytest.raises(PassError, match=message):
        proof(Spelling(), Cut(block=0, index=index))


def test_matrix_without_means_is_our_bug() -> None:
    with pytest.raises(PassError, match="rows of a merge matrix sum to"):
        proof(Spelling(), Cut(block=0, index=DROP, matrix=2 * averaging(DROP, 17)))


def test_cuts_must_be_the_plans() -> None:
    spelling = Spelling()
    plan = plan_of(spelling, (Cut(block=0, index=DROP),))
    with pytest.raises(PlanError, match="the plan has 1 cuts, 0 are given"):
        prove(build(spelling), build(spelling), plan, [], [])
