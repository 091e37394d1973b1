"""Removing widths: what was zeroed and what was removed agree, whatever the spelling; what cannot follow is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.surgery import canonical, forward
from support.tiny_torch import Spelling, example
from support.widths import chosen, cuts_of, parsed, removed, widths_of, zeroed

from edgeprune.core.costs import count_macs, count_params
from edgeprune.core.errors import PlanError
from edgeprune.core.invariants import check_invariants
from edgeprune_passes.remove_channels import RemoveChannels

SPELLINGS = {
    "fused": Spelling(),
    "separate, taps": Spelling(attention="separate", head="taps"),
    "packed, scaled": Spelling(attention="packed", scale_layers=True),
    "mha, two prefix tokens": Spelling(attention="mha", prefix=2),
    "grouped text": Spelling(attention="grouped", text=True, head="mean", prefix=1),
    "two pairs of heads": Spelling(attention="grouped", text=True, head="mean", heads=4, groups=2),
    "eager text, post-norm": Spelling(attention="eager", text=True, norm="post"),
    "rotary": Spelling(rope=True),
    "relative bias": Spelling(relative=True, attention="separate"),
    "parallel": Spelling(parallel=True),
}
KINDS = ("mlp", "heads", "head-size")

# Zeroed rows and absent rows are the same sums in fp32 but for their order.
ROUNDING = 2e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPELLINGS)
def test_removed_is_zeroed(name, kind):
    spelling = SPELLINGS[name]
    model = canonical(spelling, 2)
    arrays = chosen(model, kind)
    if not arrays:
        assert (name, kind) in {("rotary", "head-size"), ("grouped text", "heads")}
        return
    narrow = removed(model, arrays)
    check_invariants(narrow, after="remove-channels")
    onnx.checker.check_model(ir.to_proto(narrow), full_check=True)
    feeds = example(spelling, 2)
    dense, want, found = (forward(m, feeds) for m in (model, zeroed(model, arrays), narrow))
    for output, array in want.items():
        scale = np.abs(array).max()
        assert np.abs(found[output] - array).max() <= ROUNDING * scale
        assert np.abs(dense[output] - array).max() > 100 * ROUNDING * scale, "the cut changes something"
    assert count_macs(narrow) < count_macs(model)
    assert count_params(narrow) < count_params(model)


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_every_block_has_all_three_widths(dynamo):
    model = canonical(Spelling(), 1, 18 if dynamo else 17, dynamo=dynamo)
    found = widths_of(model)
    assert [g.name for g in found.groups if g.kind == "mlp"] == ["mlp.0", "mlp.1", "mlp.2"]
    assert [(g.block, g.size) for g in found.of("heads")] == [(0, 3), (1, 3), (2, 3)]
    assert [(g.block, g.size) for g in found.of("head-size")] == [(0, 8), (1, 8), (2, 8)]
    assert not found.refusals


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.sampled_from(KINDS))
def test_any_choice_of_units_is_cut_exactly(seed, share, kind):
    spelling = SPELLINGS["fused"]
    model = canonical(spelling, 1)
    arrays = chosen(model, kind, share, seed)
    feeds = example(spelling, 1, seed)
    want, found = forward(zeroed(model, arrays), feeds), forward(removed(model, arrays), feeds)
    for output, array in want.items():
        np.testing.assert_allclose(found[output], array, atol=ROUNDING * np.abs(array).max())


def test_all_three_together_in_one_plan():
    spelling = SPELLINGS["fused"]
    model = canonical(spelling, 1)
    arrays = {name: kept for kind in KINDS for name, kept in chosen(model, kind).items()}
    feeds = example(spelling, 1)
    want, found = forward(zeroed(model, arrays), feeds), forward(removed(model, arrays), feeds)
    for output, array in want.items():
        np.testing.assert_allclose(found[output], array, atol=ROUNDING * np.abs(array).max())


def test_weights_that_were_solved_take_the_place_of_the_old_ones():
    model = canonical(SPELLINGS["packed, scaled"], 1)
    arrays = chosen(model, "mlp")
    group = widths_of(model).named("mlp.1")
    rows = arrays["mlp.1/kept"]
    solved = {"mlp.1/consumer.weight": 2 * group.consumer.weight[rows], "mlp.1/consumer.bias": group.consumer.bias + 1}
    narrow = removed(model, {**arrays, **solved})
    after = widths_of(narrow).named("mlp.1").consumer
    assert np.array_equal(after.weight, solved["mlp.1/consumer.weight"])
    assert np.array_equal(after.bias, solved["mlp.1/consumer.bias"])
    with pytest.raises(PlanError, match=r"`mlp\.1/consumer\.weight` is \[3, 3\] in the file of widths"):
        removed(model, {**arrays, "mlp.1/consumer.weight": np.zeros((3, 3), np.float32)})


GATED = """
<ir_version: 8, opset_import: ["": 17]>
g (float[1,3,8,8] image, float[8,3,2,2] patch, float[8,8] wq, float[8,8] wk, float[8,8] wv, float[8,40] both,
   float[20,8] down, float[40] bias) => (float[1,16,8] y)
<int64[3] flat = {1, 8, 16}, int64[2] halves = {20, 20}>
{
  grid = Conv <strides: ints = [2, 2]> (image, patch)
  channels = Reshape (grid, flat)
  x = Transpose <perm: ints = [0, 2, 1]> (channels)
  q = MatMul (x, wq)
  k = MatMul (x, wk)
  kt = Transpose <perm: ints = [0, 2, 1]> (k)
  scores = MatMul (q, kt)
  probs = Softmax <axis: int = -1> (scores)
  v = MatMul (x, wv)
  context = MatMul (probs, v)
  mid = Add (x, context)
  wide = MatMul (mid, both)
  summed = Add (wide, bias)
  gate, up = Split <axis: int = -1> (summed, halves)
  sig = Sigmoid (gate)
  act = Mul (gate, sig)
  hidden = Mul (act, up)
  narrow = MatMul (hidden, down)
  y = Add (mid, narrow)
}
"""


def gated(text: str = GATED) -> ir.Model:
    """A gated MLP whose two halves are one weight."""
    return parsed(text)


def test_the_halves_of_a_gated_mlp_go_together():
    model = gated()
    (group,) = widths_of(model).of("mlp")
    assert group.size == 20
    assert group.coupled == ("both", "bias", "down")
    assert len(group.literals) == 1
    arrays = chosen(model, "mlp")
    narrow = removed(model, arrays)
    assert [tuple(v.shape) for v in narrow.graph.initializers.values() if v.name.startswith("both/")] == [(8, 24)]
    feeds = {"image": np.random.default_rng(2).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    want, found = forward(zeroed(model, arrays), feeds)["y"], forward(narrow, feeds)["y"]
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_a_product_without_bias_gets_one_where_a_mean_is_folded_in():
    model = gated()
    arrays = {**chosen(model, "mlp"), "mlp.0/consumer.bias": np.arange(8, dtype=np.float32)}
    without = forward(removed(model, chosen(model, "mlp")), feeds := {"image": np.ones((1, 3, 8, 8), np.float32)})["y"]
    np.testing.assert_allclose(forward(removed(model, arrays), feeds)["y"], without + np.arange(8), rtol=1e-5)


def test_a_norm_inside_the_mlp_is_refused_by_name():
    normed = GATED.replace(
        "hidden = Mul (act, up)",
        "raw = Mul (act, up)  hidden = LayerNormalization <axis: int = -1> (raw, gain)",
    ).replace("float[40] bias", "float[40] bias, float[20] gain")
    found = widths_of(gated(normed))
    assert not found.of("mlp")
    (refusal,) = [r for r in found.refusals if r.code.value == "normalised-over-width"]
    assert refusal.reason == "a statistic over the width changes with it (LayerNormalization node)"


def test_a_rotated_head_is_refused_for_its_size_and_cut_as_a_whole():
    found = widths_of(canonical(SPELLINGS["rotary"], 1))
    assert len(found.of("heads")) == 3
    assert not found.of("head-size")
    assert {r.code.value for r in found.refusals} == {"width-bound"}
    assert all("rotated, normalised or scaled one by one" in r.reason and r.at for r in found.refusals)


def test_a_cut_that_does_not_fit_says_so():
    model = canonical(SPELLINGS["fused"], 1)
    arrays = chosen(model, "mlp")
    cuts = cuts_of(model, arrays)
    with pytest.raises(PlanError, match=r"mlp\.0 keeps 29 of 48 in the plan; the model has 48 units, the file keeps 0"):
        RemoveChannels(cuts, {}).apply(model.clone())
