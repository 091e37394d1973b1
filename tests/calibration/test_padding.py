"""Padding: found by where a mask leads, counted by what attention weighs, and left out of moments and drift."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.surgery import canonical, forward, reduce
from support.tiny_torch import Spelling
from support.widths import widths_of

from edgeprune.core.errors import DataError
from edgeprune.core.recognition import recognize
from edgeprune_calibration.data import Dataset
from edgeprune_calibration.drift import measure_drift
from edgeprune_calibration.padding import Padding, find_padding, tokens_seen, warnings_on
from edgeprune_calibration.reference import Recording
from edgeprune_calibration.runner import Runner
from edgeprune_calibration.statistics import collect
from edgeprune_calibration.width_solving import probes_of

TEXT = Spelling(attention="eager", text=True)
TOKENS = TEXT.tokens


class Words:
    """Random words behind masks; words under the mask are `junk`."""

    def __init__(self, masks: np.ndarray, junk: int = 1, name: str = "mask") -> None:
        self.masks, self.junk, self.name = masks, junk, name

    def sample(self, index: int) -> dict[str, np.ndarray]:
        words = np.random.default_rng(index).integers(0, 40, TOKENS)
        return {"x": np.where(self.masks[index] == 1, words, self.junk), self.name: self.masks[index]}


def dataset(masks: np.ndarray, **given) -> Dataset:
    return Dataset(tuple(f"text {i}" for i in range(len(masks))), Words(masks, **given), tuple(range(len(masks))))


def masks_of(*lengths: int, left: bool = False) -> np.ndarray:
    masks = (np.arange(TOKENS) < np.array(lengths)[:, None]).astype(np.int64)
    return masks[:, ::-1].copy() if left else masks


RIGHT = masks_of(4, 15, 9, 12, 6, 7)


@pytest.fixture(scope="module")
def text():
    model = canonical(TEXT, 1)
    padding = find_padding(recognize(model))
    assert padding is not None
    return model, padding


def test_a_mask_is_what_reaches_the_scores_beside_queries_and_keys(text):
    model, padding = text
    assert padding.inputs == ("mask",)
    assert len(padding.softmaxes) == TEXT.depth
    for spelling in (Spelling(), Spelling(attention="grouped", text=True)):
        assert find_padding(recognize(canonical(spelling, 1))) is None
    assert [str(v.name) for v in model.graph.inputs] == ["x", "mask"]


@pytest.mark.parametrize("masks", [RIGHT, masks_of(4, 15, 9, left=True)])
def test_what_nobody_weighs_is_padding(text, masks):
    model, padding = text
    np.testing.assert_array_equal(tokens_seen(model, padding, dataset(masks), batch=1), masks == 1)


def test_a_mask_may_say_what_is_hidden_instead():
    model = canonical(TEXT, 1)
    old = model.graph.inputs[1]
    hides = ir.Value(name="hides", type=old.type, shape=old.shape)
    shown = ir.node("Sub", [ir.Value(name="one", const_value=ir.tensor(np.ones(1, np.int64))), hides])
    model.graph.initializers["one"] = shown.inputs[0]
    shown.outputs[0].shape, shown.outputs[0].type = old.shape, old.type
    old.replace_all_uses_with(shown.outputs[0])
    model.graph.inputs[1] = hides
    model.graph.insert_before(model.graph[0], shown)
    padding = find_padding(recognize(model))
    assert padding is not None
    assert padding.inputs == ("hides",)
    seen = tokens_seen(model, padding, dataset(1 - RIGHT, name="hides"), batch=1)
    np.testing.assert_array_equal(seen, RIGHT == 1)


def test_moments_know_nothing_of_padding(text):
    model, padding = text
    widths = widths_of(model)
    probes = probes_of(widths, ("mlp", "heads", "head-size"))
    one, other = (collect(model, probes, dataset(RIGHT, junk=j), batch=1, padding=padding) for j in (1, 33))
    plain = [collect(model, probes, dataset(RIGHT, junk=j), batch=1) for j in (1, 33)]
    for probe in probes:
        assert one[probe.name].held.rows == RIGHT[[0, 5]].sum()
        assert one[probe.name].all.rows == RIGHT.sum()
        for part in ("fit", "held"):
            a, b = (getattr(found[probe.name], part) for found in (one, other))
            np.testing.assert_allclose(a.gram, b.gram, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(a.total, b.total, rtol=1e-6, atol=1e-5)
        counted = [found[probe.name].all.gram for found in plain]
        assert np.abs(counted[0] - counted[1]).max() > 1e-2 * np.abs(counted[0]).max(), "the junk is seen otherwise"


def test_moments_are_those_of_the_tokens_that_count(text):
    model, padding = text
    group = widths_of(model).named("mlp.1")
    copy = model.clone()
    value = next(v for node in copy.graph for v in node.outputs if v.name == group.consumer.data.name)
    copy.graph.outputs.append(value)
    runner = Runner(copy)
    rows = [runner.run(feed)[value.name][0][feed["mask"][0] == 1] for _, feed in dataset(RIGHT).feeds()]
    want = np.concatenate(rows).astype(float)
    (probe,) = (probe for probe in probes_of(widths_of(model), ("mlp",)) if probe.name == "mlp.1")
    found = collect(model, [probe], dataset(RIGHT), batch=1, padding=padding)["mlp.1"].all
    np.testing.assert_allclose(found.gram, want.T @ want, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.mean, want.mean(0), rtol=1e-3, atol=1e-4)


def test_a_batch_of_several_counts_the_same():
    sums = []
    for batch in (1, 2):
        model = canonical(TEXT, batch)
        padding = find_padding(recognize(model))
        (probe, *_) = probes_of(widths_of(model), ("heads",))
        sums.append(collect(model, [probe], dataset(RIGHT[:4]), batch=batch, padding=padding)[probe.name])
    # The first sample is held out; with two a batch it fills its batch, and so counts twice.
    assert sums[0].held.rows * 2 == sums[1].held.rows
    np.testing.assert_allclose(sums[0].held.gram * 2, sums[1].held.gram, rtol=1e-4)


def test_padding_is_followed_through_cuts_of_tokens(text):
    model, padding = canonical(TEXT, 1), text[1]
    probes = probes_of(widths_of(model), ("mlp", "heads"))
    reduce(model, {0: 9}, "uniform")
    found = collect(model, probes, dataset(RIGHT), batch=1, padding=padding)
    whole, cut = found["attention.0"].all.rows, found["mlp.0"].all.rows
    assert whole == RIGHT.sum()
    assert found["attention.1"].all.rows == found["mlp.2"].all.rows == cut
    assert 10 < cut < whole
    assert cut < 10 * len(RIGHT), "some of the ten tokens that are left are padding"


def test_drift_is_that_of_the_tokens_that_count():
    dense = np.random.default_rng(0).standard_normal((2, TOKENS, 3)).astype(np.float32)
    seen = masks_of(5, 9) == 1
    pruned = np.where(seen[:, :, None], dense, 7.0)

    class Candidate:
        def run(self, feeds):
            (row,) = np.flatnonzero(feeds["mask"][0].sum() == seen.sum(1))
            return {"states": pruned[[row]]}

    rows = {"text 0": 0, "text 1": 1}
    for judge, exact in (
        (Recording("r", {"states": dense}, rows, seen), True),
        (Recording("r", {"states": dense}, rows), False),
    ):
        drift = measure_drift(judge, Candidate(), dataset(masks_of(5, 9)))["states"]
        assert (drift.relative_error == 0 and drift.mean_abs_error == 0) is exact
        assert (drift.cosine == pytest.approx(1.0)) is exact


def test_what_a_person_is_told():
    padding = Padding(("mask",), ())
    full, ragged = np.ones((4, 6), bool), np.ones((4, 6), bool)
    ragged[1:3, 2] = False
    (none,) = warnings_on(padding, full)
    assert none.startswith("`mask` is a mask and hides no token of 4 samples: what was measured holds for inputs of")
    share, noise = warnings_on(padding, ragged)
    assert share == "`mask` is a mask: 8% of the tokens of 4 samples are padding and do not count"
    assert noise == "`mask` hides tokens between others in 2 of 4 samples: is it noise?"
    assert len(warnings_on(padding, masks_of(3, 5, left=True) == 1)) == 1


def test_a_mask_of_zeros_hides_nothing_that_could_be_told(text):
    """Every query weighs all keys, since the same is taken from all scores: so says the model, and so it counts."""
    model, padding = text
    masks = masks_of(0, 5)
    feed = next(iter(dataset(masks).feeds([0])))[1]
    assert np.isfinite(forward(model, feed)[str(model.graph.outputs[0].name)]).all()
    np.testing.assert_array_equal(tokens_seen(model, padding, dataset(masks), batch=1)[0], np.ones(TOKENS, bool))


def test_moments_of_nothing_are_named(text, monkeypatch):
    from edgeprune_calibration import padding as module

    model, padding = text
    monkeypatch.setattr(module, "_SEEN", 2.0)
    (probe, *_) = probes_of(widths_of(model), ("mlp",))
    with pytest.raises(DataError, match=r"all tokens at mlp\.0 are padding, in every sample") as caught:
        collect(model, [probe], dataset(RIGHT), batch=1, padding=padding)
    assert caught.value.hint == "give samples whose mask lets tokens through"
    with pytest.raises(DataError, match="`mask` hides every token of text 0"):
        tokens_seen(model, padding, dataset(RIGHT), batch=1)
