"""Moments, elimination, regression and rotation against plain numpy; and what bad data is told."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from support.surgery import canonical, forward
from support.tiny_torch import Spelling, example
from support.widths import widths_of

from edgeprune.core.errors import DataError
from edgeprune.core.tape import clone_constant
from edgeprune_calibration.data import Dataset
from edgeprune_calibration.moments import Moments, SplitMoments
from edgeprune_calibration.rotating import logit_basis, value_basis, value_weight
from edgeprune_calibration.runner import Runner
from edgeprune_calibration.solving import DAMPING, Affine, eliminate, held_error, resolve
from edgeprune_calibration.statistics import collect, thin
from edgeprune_calibration.store import Store, store_for
from edgeprune_calibration.width_solving import MEAN_ONLY, ROTATED, WidthSolver, probes_of
from edgeprune_passes.remove_channels import RemoveChannels

RNG = np.random.default_rng(11)
TINY = Spelling()
GROUPED = Spelling(attention="grouped", text=True, heads=4, groups=2)


class Samples:
    """Random images of the tiny transformers."""

    def __init__(self, spoiled: int = -1, spelling: Spelling = TINY) -> None:
        self.spoiled, self.spelling = spoiled, spelling

    def sample(self, index: int) -> dict[str, np.ndarray]:
        made = {name: array[0] for name, array in example(self.spelling, 1, index).items()}
        if index == self.spoiled:
            made["x"] = np.full_like(made["x"], np.nan)
        return made


def dataset(count: int, **more: Any) -> Dataset:
    return Dataset(tuple(f"image {i}" for i in range(count)), Samples(**more), tuple(range(count)))


def moments_of(rows: np.ndarray) -> Moments:
    return Moments(len(rows), rows.sum(0), rows.T @ rows)


def split_of(fit: np.ndarray, held: np.ndarray) -> SplitMoments:
    return SplitMoments(moments_of(fit), moments_of(held))


def data(rows: int = 400, width: int = 12, rank: int = 7, seed: int = 0) -> np.ndarray:
    """Correlated rows with a mean; every call the same distribution, `seed` other rows of it."""
    mixing = np.random.default_rng(width * 100 + rank).standard_normal((rank, width))
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, rank)) @ mixing + 0.3 * rng.standard_normal((rows, width)) + np.arange(width)


def affine(width: int = 12, out: int = 5) -> Affine:
    return Affine(RNG.standard_normal((width, out)), RNG.standard_normal(out), RNG.uniform(0.5, 2, out))


@pytest.fixture(scope="module")
def tiny():
    """A tiny transformer, its widths, and moments of twelve samples."""
    model = canonical(TINY, 1)
    widths = widths_of(model)
    return model, widths, collect(model, probes_of(widths, ("mlp", "heads", "head-size")), dataset(12), batch=1)


def test_moments_are_those_of_the_activations(tiny):
    model, widths, found = tiny
    group = widths.named("mlp.1")
    copy = model.clone()
    value = next(v for node in copy.graph for v in node.outputs if v.name == group.consumer.data.name)
    copy.graph.outputs.append(value)
    runner = Runner(copy)
    for part, indices in (("held", [0, 5, 10]), ("fit", [i for i in range(12) if i % 5])):
        rows = np.concatenate([runner.run(feed)[value.name][0] for _, feed in dataset(12).feeds(indices)])
        taken = getattr(found["mlp.1"], part)
        assert taken.rows == len(rows)
        np.testing.assert_allclose(taken.gram, rows.astype(float).T @ rows, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(taken.mean, rows.mean(0), rtol=1e-3, atol=1e-4)


def test_every_head_has_its_own_moments(tiny):
    model, widths, found = tiny
    product = widths.named("heads.2").layout.product
    copy = model.clone()
    keys = next(n for n in copy.graph if n.outputs[0].name == product.outputs[0].name).inputs[1]
    copy.graph.outputs.append(keys)
    runner = Runner(copy)
    rows = np.concatenate([runner.run(feed)[keys.name][0] for _, feed in dataset(12).feeds()], axis=-1)
    want = np.einsum("hdt,het->hde", rows, rows)
    np.testing.assert_allclose(found["key.2"].all.gram, want, rtol=1e-3, atol=1e-2)


def test_eliminated_loss_is_that_of_a_direct_refit():
    rows, known = data(), affine()
    order = eliminate(moments_of(rows), known.weighed, np.arange(12), 3)
    sigma = np.cov(rows.T, bias=True)
    sigma += DAMPING * np.diag(sigma).mean() * np.eye(12)
    for gone in range(1, 9):
        removed = order.order[:gone]
        kept = np.setdiff1d(np.arange(12), removed)
        inner = sigma[np.ix_(removed, removed)] - sigma[np.ix_(removed, kept)] @ np.linalg.solve(
            sigma[np.ix_(kept, kept)], sigma[np.ix_(kept, removed)]
        )
        want = np.trace(known.weighed[removed].T @ inner @ known.weighed[removed])
        np.testing.assert_allclose(order.loss[gone - 1], want, rtol=1e-9)


def test_whole_heads_go_in_a_good_order():
    rows, known = data(width=12), affine()
    units = np.repeat(np.arange(4), 3)
    order = eliminate(moments_of(rows), known.weighed, units, 2)
    sigma = np.cov(rows.T, bias=True)
    losses = {}
    for pair in [*itertools.combinations(range(4), 1), *itertools.combinations(range(4), 2)]:
        gone = np.isin(units, pair)
        inner = sigma[np.ix_(gone, gone)] - sigma[np.ix_(gone, ~gone)] @ np.linalg.solve(
            sigma[np.ix_(~gone, ~gone)], sigma[np.ix_(~gone, gone)]
        )
        losses[pair] = np.trace(known.weighed[gone].T @ inner @ known.weighed[gone])
    assert losses[order.order[0],] == min(loss for gone, loss in losses.items() if len(gone) == 1)
    pairs = sorted(loss for gone, loss in losses.items() if len(gone) == 2)
    assert losses[tuple(sorted(order.order[:2].tolist()))] <= pairs[1], "greedy, so not always the very best"


def test_the_regression_is_least_squares_with_an_intercept():
    fit, held, known = data(), data(seed=1), affine()
    stays = np.arange(12) < 8
    found = resolve(split_of(fit, held), known, stays)
    target = fit @ known.weight + known.bias
    design = np.concatenate([fit[:, stays], np.ones((len(fit), 1))], 1)
    best = np.linalg.lstsq(design, target, rcond=None)[0]
    floor = ((design @ best - target) ** 2).sum()
    ours = ((fit[:, stays] @ found.weight + found.bias - target) ** 2).sum()
    assert ours <= 1.2 * floor
    assert found.error < found.untouched


def test_the_held_out_error_is_that_of_the_rows():
    fit, held, known = data(), data(90, seed=1), affine()
    stays = np.arange(12) % 3 > 0
    found = resolve(split_of(fit, held), known, stays)
    kept = np.flatnonzero(stays)
    difference = (held[:, stays] @ found.weight + found.bias - held @ known.weight - known.bias) * known.gain
    energy = ((held @ known.weight * known.gain - (held @ known.weight * known.gain).mean(0)) ** 2).sum()
    wanted = (difference**2).sum() / energy
    assert held_error(moments_of(held), known, found.weight, found.bias, kept) == pytest.approx(wanted, rel=1e-9)


def test_all_units_give_the_weights_back():
    known = affine()
    found = resolve(split_of(data(), data()), known, np.ones(12, bool))
    np.testing.assert_allclose(found.weight, known.weight, atol=1e-12)
    np.testing.assert_allclose(found.bias, known.bias, atol=1e-12)


def test_a_doubled_channel_costs_nothing():
    rows, known = data(rank=12), affine()
    rows[:, 11] = rows[:, 3]
    order = eliminate(moments_of(rows), known.weighed, np.arange(12), 11)
    assert order.order[0] in {3, 11}
    found = resolve(split_of(rows, rows), known, np.arange(12) != order.order[0])
    assert found.error < 0.02


def test_constant_channels_are_the_bias_alone():
    rows, known = np.full((50, 12), 3.0) + np.arange(12), affine()
    rows[:, :2] = RNG.standard_normal((50, 2))
    found = resolve(split_of(rows, rows), known, np.arange(12) < 2)
    assert found.error < 1e-12
    np.testing.assert_allclose(found.bias, known.bias + (3 + np.arange(2, 12)) @ known.weight[2:], rtol=1e-3)
    nothing = resolve(
        split_of(rows[:, 2:], rows[:, 2:]), Affine(known.weight[2:], known.bias, known.gain), np.arange(10) < 5
    )
    assert np.isfinite(nothing.weight).all()


def test_too_few_rows_fall_back_on_the_mean():
    known = affine()
    found = resolve(split_of(data(2), RNG.standard_normal((200, 12)) * 9), known, np.arange(12) < 2)
    assert found.ridge is None
    assert "held-out" in found.reason
    np.testing.assert_array_equal(found.weight, known.weight[:2])


def test_logits_survive_a_whole_basis_and_lose_the_tail():
    q, k = data(300, 6), data(200, 6, seed=1)
    bases = logit_basis(Moments(300, q.sum(0)[None], (q.T @ q)[None]), Moments(200, k.sum(0)[None], (k.T @ k)[None]), 0)
    logits = q @ (k - k.mean(0)).T
    np.testing.assert_allclose((q @ bases.query) @ ((k - k.mean(0)) @ bases.key).T, logits, atol=1e-6)
    for keep in range(1, 6):
        cut = (q @ bases.query[:, :keep]) @ ((k - k.mean(0)) @ bases.key[:, :keep]).T
        lost = ((cut - logits) ** 2).sum() / (logits**2).sum()
        assert bases.loss[keep] == pytest.approx(lost, rel=1e-6)


def test_values_lose_the_tail_of_the_output():
    v, weight = data(300, 6), RNG.standard_normal((6, 9))
    sigma = np.cov(v.T, bias=True)
    found = value_basis(sigma, weight)
    centred = v - v.mean(0)
    for keep in range(1, 7):
        basis = found.basis[:, :keep]
        cut = centred @ basis @ value_weight(sigma, basis, weight)
        assert ((cut - centred @ weight) ** 2).mean(0).sum() == pytest.approx(found.loss[keep], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("rows", [np.zeros((40, 4)), np.ones((40, 4)) * [3.0, -1, 0, 2e3]], ids=["dead", "constant"])
def test_a_head_that_tells_nothing_apart_keeps_its_coordinates(rows):
    """Nothing can be won by a rotation, and its inverse would be without bounds."""
    other = data(rows=40, width=4, rank=3)

    def stacked(array):
        return Moments(len(array), array.sum(0)[None], (array.T @ array)[None])

    for queries, keys in ((rows, rows), (other, rows)):
        basis = logit_basis(stacked(queries), stacked(keys), 0)
        np.testing.assert_array_equal(basis.query, np.eye(4))
        np.testing.assert_array_equal(basis.key, np.eye(4))
        assert not basis.loss.any()
    weight = RNG.standard_normal((4, 6))
    sigma = moments_of(rows).covariance
    basis = value_basis(sigma, weight)
    made = value_weight(sigma, basis.basis[:, :2], weight)
    for array in (basis.basis, basis.loss, made):
        assert np.isfinite(array.astype(np.float32)).all()


def test_grams_of_few_rows_are_told_with_what_would_be_enough():
    wide = split_of(data(rows=40, width=12), data(rows=10, width=12))
    full = split_of(data(rows=400, width=12), data(rows=100, width=12))
    told = thin({"mlp.0": full, "mlp.1": wide}, samples=5)
    assert told == (
        "5 samples are 50 tokens for the 12 channels at mlp.1, 4.2 for each: 6 samples would be enough, 24 plenty"
    )
    assert not thin({"mlp.0": full}, samples=50)
    short = split_of(data(rows=8, width=12), data(rows=2, width=12))
    assert "10 tokens for the 12 channels at mlp.1, fewer than its rank" in thin({"mlp.1": short}, samples=2)


def test_a_gram_without_full_rank_is_solved_by_its_ridge():
    fit, held, known = data(rows=6), data(rows=3, seed=1), affine()
    found = resolve(split_of(fit, held), known, np.arange(12) < 8)
    assert np.isfinite(found.weight).all()
    assert found.error <= found.untouched
    order = eliminate(moments_of(fit), known.weighed, np.arange(12), 2)
    assert len(set(order.order.tolist())) == 10
    assert np.isfinite(order.loss).all()


@pytest.mark.parametrize("spelling", [TINY, GROUPED, Spelling(attention="grouped", text=True)], ids=str)
def test_a_low_rank_attention_gets_smaller_heads_for_nothing(spelling):
    model = canonical(spelling, 1)
    for group in widths_of(model).of("head-size"):
        for part in (group.layout.query, group.layout.key, group.layout.value):
            weight, bias = part.linear.weight.copy(), part.linear.bias.copy()
            for columns in part.columns:
                mix = RNG.standard_normal((4, len(columns) - 4)).astype(np.float32) * 0.5
                weight[:, columns[4:]], bias[columns[4:]] = weight[:, columns[:4]] @ mix, bias[columns[:4]] @ mix
            node, adder = part.linear.node, part.linear.adder
            node.replace_input_with(1, clone_constant(model, node.inputs[1], weight))
            index = part.linear.bias_index
            adder.replace_input_with(index, clone_constant(model, adder.inputs[index], bias))
    widths = widths_of(model)
    found = collect(model, probes_of(widths, ("head-size",)), dataset(8, spelling=spelling), batch=1)
    solved = WidthSolver(widths, found).solve({group.name: 4 for group in widths.of("head-size")})
    assert {s.method for s in solved} == {ROTATED}
    narrow = model.clone()
    RemoveChannels(tuple(s.cut for s in solved), {n: a for s in solved for n, a in s.arrays.items()}).apply(narrow)
    want, got = (forward(m, example(spelling, 1, 99)) for m in (model, narrow))
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, atol=2e-3 * np.abs(array).max())


def test_all_three_widths_solved_together_beat_taking_units_out(tiny):
    model, widths, found = tiny
    solver = WidthSolver(widths, found)
    keep = {g.name: {"mlp": 36, "heads": 2, "head-size": 6}[g.kind] for g in widths.groups}
    solved = solver.solve(keep)
    assert [s.cut.kind for s in solved] == ["mlp"] * 3 + ["heads"] * 3 + ["head-size"] * 3
    arrays = {n: a for s in solved for n, a in s.arrays.items()}
    bare = {n: a for n, a in arrays.items() if n.endswith("/kept")}
    feeds = example(TINY, 1, 77)
    dense = forward(model, feeds)
    errors = []
    for each in (arrays, bare):
        narrow = model.clone()
        RemoveChannels(tuple(s.cut for s in solved), each).apply(narrow)
        errors.append(sum(float(np.abs(a - dense[n]).mean()) for n, a in forward(narrow, feeds).items()))
    assert errors[0] < 0.7 * errors[1]


def test_fewer_units_never_lose_less(tiny):
    _, widths, found = tiny
    solver = WidthSolver(widths, found)
    for group in widths.groups:
        losses = [solver.loss(group, keep) for keep in range(max(1, group.size // 8), group.size + 1)]
        assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(losses))
        assert losses[-1] == 0.0


def test_the_mean_alone_is_named(tiny):
    _, widths, found = tiny
    width = len(found["mlp.0"].fit.total)
    strange = Moments(100, np.zeros(width), 900 * np.eye(width))  # nothing here tells one channel from another
    short = {"mlp.0": SplitMoments(found["mlp.0"].fit, strange)}
    (solved,) = WidthSolver(widths, short).solve({"mlp.0": 6})
    assert (solved.method, solved.ridge) == (MEAN_ONLY, None)
    assert solved.reason


def test_one_sample_is_too_few(tiny):
    model, widths, _ = tiny
    with pytest.raises(DataError, match="widths are chosen on 1 sample, expected 2 or more"):
        collect(model, probes_of(widths, ("mlp",)), dataset(1), batch=1)


def test_activations_that_are_no_numbers_are_named(tiny):
    model, widths, _ = tiny
    with pytest.raises(DataError, match=r"an activation at mlp\.0 is NaN or infinite on image 3"):
        collect(model, probes_of(widths, ("mlp",)), dataset(6, spoiled=3), batch=1)


def test_a_pass_that_was_stopped_goes_on(tiny, tmp_path):
    model, widths, found = tiny
    probes = probes_of(widths, ("mlp", "heads", "head-size"))
    store = Store(tmp_path / "a")
    store._saved = -1e9  # as if a minute had passed
    with pytest.raises(DataError):
        collect(model, probes, dataset(12, spoiled=1), batch=1, store=store)
    (path,) = (tmp_path / "a").glob("*.npz")
    assert int(np.load(path)["done"]) == 1
    again = collect(model, probes, dataset(12), batch=1, store=store)
    assert int(np.load(path)["done"]) == 12
    np.testing.assert_array_equal(again["mlp.2"].fit.gram, found["mlp.2"].fit.gram)
    path.write_bytes(b"cut short")
    assert store.load(path.stem) is None


def test_the_place_of_sums_depends_on_model_plan_and_samples(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    places = [
        store_for(m, p, dataset(n), 1).folder
        for m, p, n in (("a", b"", 2), ("b", b"", 2), ("a", b"p", 2), ("a", b"", 3))
    ]
    assert len(set(places)) == 4
    assert places[0] == store_for("a", b"", dataset(2), 1).folder
