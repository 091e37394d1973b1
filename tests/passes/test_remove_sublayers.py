"""Removing sublayers: a constant in their place and their absence agree, and blocks keep their numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.surgery import canonical, forward
from support.surgery import reduce as cut_tokens
from support.tiny_torch import Spelling, example
from support.widths import parsed, widths_of

from edgeprune.compiler.opening.loading import Loaded
from edgeprune.compiler.proving.proofs import exactness, is_identity
from edgeprune.core.costs import count_macs, count_params
from edgeprune.core.errors import PlanError
from edgeprune.core.graph import static_shape
from edgeprune.core.invariants import check_invariants
from edgeprune.core.plan import WidthCut
from edgeprune.core.recognition import recognize
from edgeprune.core.tape import add_initializer
from edgeprune_passes.remove_sublayers import RemoveSublayers
from edgeprune_targets.blocks import blocks_of

SPELLINGS = {
    "fused": Spelling(),
    "separate, taps": Spelling(attention="separate", head="taps"),
    "packed, scaled": Spelling(attention="packed", scale_layers=True),
    "mha, two prefix tokens": Spelling(attention="mha", prefix=2),
    "grouped text": Spelling(attention="grouped", text=True, head="mean", prefix=1),
    "eager text, post-norm": Spelling(attention="eager", text=True, norm="post"),
    "rotary": Spelling(rope=True),
    "relative bias": Spelling(relative=True, attention="separate"),
    "parallel": Spelling(parallel=True),
}
# The same sums in the same order but for what a runtime fuses.
ROUNDING = 2e-5


def rows_for(model: ir.Model, names: Iterable[str]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    found = {s.name: s for s in widths_of(model).sublayers}
    return {f"{name}/mean": rng.standard_normal(found[name].row).astype(np.float32) for name in names}


def cuts_for(names: Iterable[str]) -> tuple[WidthCut, ...]:
    parts = [name.split(".") for name in names]
    return tuple(WidthCut(kind=kind, block=int(block), keep=0, of=1) for kind, block in parts)


def removed(model: ir.Model, arrays: dict[str, np.ndarray]) -> ir.Model:
    narrow = model.clone()
    RemoveSublayers(cuts_for(name.removesuffix("/mean") for name in arrays), arrays).apply(narrow)
    return narrow


def overwritten(model: ir.Model, arrays: dict[str, np.ndarray]) -> ir.Model:
    """The dense graph, in which the Add of a sublayer reads a whole constant of all tokens instead."""
    dense = model.clone()
    for sublayer in widths_of(dense).sublayers:
        row = arrays.get(f"{sublayer.name}/mean")
        if row is not None:
            shape = static_shape(sublayer.join.inputs[sublayer.index])
            whole = add_initializer(dense, np.broadcast_to(row, shape).copy(), f"{sublayer.name}/whole")
            sublayer.join.replace_input_with(sublayer.index, whole)
    return dense


@pytest.mark.parametrize(
    "names", [["attention-sublayer.1"], ["mlp-sublayer.1"], ["attention-sublayer.0", "mlp-sublayer.2"]]
)
@pytest.mark.parametrize("name", SPELLINGS)
def test_removed_is_overwritten(name, names):
    spelling = SPELLINGS[name]
    model = canonical(spelling, 2)
    arrays = rows_for(model, names)
    narrow = removed(model, arrays)
    check_invariants(narrow, after="remove-sublayers")
    onnx.checker.check_model(ir.to_proto(narrow), full_check=True)
    feeds = example(spelling, 2)
    dense, want, found = (forward(m, feeds) for m in (model, overwritten(model, arrays), narrow))
    for output, array in want.items():
        assert np.abs(found[output] - array).max() <= ROUNDING * np.abs(array).max()
    moved = max(np.abs(dense[output] - array).max() / np.abs(array).max() for output, array in want.items())
    assert moved > 100 * ROUNDING, "the sublayer matters"
    assert count_macs(narrow) < count_macs(model)
    assert count_params(narrow) < count_params(model)


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_attention_and_every_mlp_is_found(name):
    found = widths_of(canonical(SPELLINGS[name], 1))
    assert [s.name for s in found.sublayers if s.kind == "attention-sublayer"] == [
        f"attention-sublayer.{b}" for b in range(3)
    ]
    assert [s.name for s in found.sublayers if s.kind == "mlp-sublayer"] == [f"mlp-sublayer.{b}" for b in range(3)]
    assert all(s.coupled for s in found.sublayers)


def test_a_wrong_row_is_seen():
    spelling = SPELLINGS["fused"]
    model = canonical(spelling, 1)
    arrays = rows_for(model, ["mlp-sublayer.1"])
    other = {name: np.roll(row, 1) for name, row in arrays.items()}
    feeds = example(spelling, 1)
    want, found = forward(overwritten(model, arrays), feeds), forward(removed(model, other), feeds)
    assert all(np.abs(found[name] - want[name]).max() > 100 * ROUNDING for name in want)


def test_the_blocks_behind_keep_their_numbers_and_tokens_are_cut_there():
    spelling = SPELLINGS["fused"]
    dense = canonical(spelling, 1)
    narrow = removed(dense, rows_for(dense, ["attention-sublayer.0"]))
    assert [block.index for block in recognize(narrow).blocks] == [1, 2]
    numbers = blocks_of(tuple(narrow.graph))
    softmaxes = [numbers[node] for node in narrow.graph if node.op_type == "Softmax"]
    assert softmaxes == [1, 2]
    pruned = narrow.clone()
    plan = cut_tokens(pruned, {1: 10}, "uniform")
    found = recognize(narrow)
    assert found.block(0) is None
    loaded = Loaded("tiny", None, narrow, found, {})
    plan = replace(plan, blocks=3)
    assert exactness(loaded, pruned, plan, example(spelling, 1), 1).passed
    assert is_identity(loaded, plan, example(spelling, 1), 1)
    with pytest.raises(PlanError, match="block 0 has no cut point"):
        cut_tokens(narrow.clone(), {0: 10}, "uniform")


def test_parts_that_meet_before_the_stream_are_refused_by_name():
    text = """
<ir_version: 8, opset_import: ["": 17]>
g (float[1,3,8,8] image, float[8,3,2,2] patch, float[8,8] wq, float[8,8] wk, float[8,8] wv, float[8,40] up,
   float[40,8] down) => (float[1,16,8] y)
<int64[3] flat = {1, 8, 16}>
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
  wide = MatMul (x, up)
  act = Relu (wide)
  narrow = MatMul (act, down)
  both = Add (context, narrow)
  y = Add (x, both)
}
"""
    found = widths_of(parsed(text))
    assert not found.sublayers
    (refusal,) = [r for r in found.refusals if "before the stream" in r.reason]
    assert refusal.reason == "attention and MLP are added to each other before the stream (Add node)"
    assert refusal.at == ("y",)


def test_what_is_read_elsewhere_too_is_refused_by_name():
    model = canonical(SPELLINGS["fused"], 1)
    dense = widths_of(model)
    sublayer = dense.sublayer("mlp-sublayer.1")
    model.graph.outputs.append(sublayer.join.inputs[sublayer.index])
    found = widths_of(model)
    assert found.sublayer("mlp-sublayer.1") is None
    assert found.sublayer("mlp-sublayer.2") is not None
    (refusal,) = [r for r in found.refusals if "read elsewhere" in r.reason]
    assert refusal.at == (model.graph.outputs[-1].name,)


def test_a_plan_that_does_not_fit_says_so():
    model = canonical(SPELLINGS["fused"], 1)
    with pytest.raises(
        PlanError, match=r"`mlp-sublayer\.1/mean` is nothing in the file of widths, the model needs \[24\]"
    ):
        RemoveSublayers(cuts_for(["mlp-sublayer.1"]), {}).apply(model.clone())
    with pytest.raises(PlanError, match=r"the model has no mlp-sublayer\.7"):
        RemoveSublayers(cuts_for(["mlp-sublayer.7"]), {}).apply(model.clone())
