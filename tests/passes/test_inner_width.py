"""The inner width of Mamba blocks: removed channels are channels that are silent in both directions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from support.scan_surgery import SCAN, canonical_vim
from support.surgery import forward
from support.tiny_vim import VimSpelling, build, example
from support.widths import chosen, cuts_of, removed, widths_of

from edgeprune.compiler.proving.width_proof import prove_widths
from edgeprune.core.costs import count_macs, count_params
from edgeprune.core.graph import constant_of
from edgeprune.core.invariants import check_invariants
from edgeprune.core.plan import Plan
from edgeprune.core.scans import selective_scans
from edgeprune_passes.remove_channels import RemoveChannels

SPELLINGS = {
    "class token in the middle": SCAN,
    "two streams, mean": VimSpelling(token="none", two_streams=True),
    "halved": VimSpelling(halved=True, token="last"),
}
# Zeroed rows and absent rows are the same sums in fp32 but for their order.
ROUNDING = 2e-5


def silenced(spelling: VimSpelling, arrays: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> np.ndarray:
    """PyTorch's logits when the convolutions of the other channels give nothing: u = 0, and so y = 0."""
    module = build(spelling)
    with torch.no_grad():
        for i, block in enumerate(module.vim.blocks):
            for branch in (block.forwards, block.backwards):
                gone = torch.ones(branch.conv.weight.shape[0], dtype=torch.bool)
                gone[torch.from_numpy(arrays[f"inner.{i}/kept"])] = False
                branch.conv.weight[gone] = 0
                branch.conv.bias[gone] = 0
        return module(torch.from_numpy(inputs["image"])).numpy()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", SPELLINGS)
def test_removed_is_silenced_in_pytorch(name: str, batch: int) -> None:
    spelling = SPELLINGS[name]
    model, inputs = canonical_vim(spelling, batch), example(spelling, batch)
    arrays = chosen(model, "inner")
    narrow = removed(model, arrays)
    check_invariants(narrow, after="remove-channels")
    (found,) = forward(narrow, inputs).values()
    wanted = silenced(spelling, arrays, inputs)
    (dense,) = forward(model, inputs).values()
    scale = np.abs(wanted).max()
    assert np.abs(found - wanted).max() < ROUNDING * scale
    assert np.abs(dense - wanted).max() > 0.01 * scale


def test_a_group_has_all_that_belongs_to_a_channel() -> None:
    groups = widths_of(canonical_vim(SCAN, 1)).of("inner")
    assert [group.name for group in groups] == ["inner.0", "inner.1"]
    for group in groups:
        assert group.size == 2 * SCAN.width
        # in_proj, the projections of both steps; x_proj of both directions and out_proj
        assert (len(group.producers), len(group.beside)) == (3, 2)
        # in_proj, out_proj, and by direction: kernel, its bias, x_proj, dt_proj and its bias, A, D
        assert len(group.coupled) == 2 + 2 * 7


def test_every_weight_and_attribute_is_smaller() -> None:
    model = canonical_vim(SCAN, 1)
    arrays = chosen(model, "inner", share=0.5)
    narrow = removed(model, arrays)
    width = SCAN.width
    assert {node.attributes["group"].as_int() for node in narrow.graph if node.op_type == "Conv"} == {1, width}
    assert {constant_of(node.inputs[2]).shape for node in selective_scans(narrow.graph)} == {(width, SCAN.states)}
    assert count_params(narrow) < 0.75 * count_params(model)
    assert count_macs(narrow) < 0.75 * count_macs(model)


def test_channels_of_one_block_leave_the_other_as_it_is() -> None:
    model = canonical_vim(SCAN, 1)
    arrays = {"inner.1/kept": np.arange(5)}
    narrow = removed(model, arrays)
    shapes = [constant_of(node.inputs[2]).shape[0] for node in selective_scans(narrow.graph)]
    assert shapes == [2 * SCAN.width, 2 * SCAN.width, 5, 5]


def proved(model: ir.Model, narrow: ir.Model, arrays: dict[str, np.ndarray]) -> bool:
    plan = Plan(
        model_sha256="", inputs={}, patch_tokens=16, prefix_tokens=1, blocks=2, cuts=(), widths=cuts_of(model, arrays)
    )
    return prove_widths(model, narrow, plan, arrays, example(SCAN, 1), threads=1).passed


def test_the_proof_passes_and_fails_where_one_direction_was_cut_otherwise() -> None:
    model = canonical_vim(SCAN, 1)
    arrays = chosen(model, "inner")
    narrow = removed(model, arrays)
    assert proved(model, narrow, arrays)
    (node, *_) = selective_scans(narrow.graph)
    matrix = constant_of(node.inputs[2])
    tensor = ir.tensor(np.ascontiguousarray(matrix[::-1]), name="turned")
    wrong = ir.Value(name="turned", shape=ir.Shape(matrix.shape), type=node.inputs[2].type, const_value=tensor)
    narrow.graph.register_initializer(wrong)
    node.replace_input_with(2, wrong)
    assert not proved(model, narrow, arrays)


def test_a_convolution_that_mixes_channels_is_refused() -> None:
    model = canonical_vim(SCAN, 1)
    conv = next(node for node in model.graph if node.op_type == "Conv" and node.attributes["group"].as_int() > 1)
    kernel = conv.inputs[1]
    wide = np.repeat(constant_of(kernel), 2, axis=1)
    tensor = ir.tensor(wide, name="wide")
    value = ir.Value(name="wide", shape=ir.Shape(wide.shape), type=kernel.type, const_value=tensor)
    model.graph.register_initializer(value)
    conv.replace_input_with(1, value)
    conv.attributes["group"] = ir.AttrInt64("group", conv.attributes["group"].as_int() // 2)
    widths = widths_of(model)
    assert [group.name for group in widths.of("inner")] == ["inner.1"]
    assert any(refusal.reason == "a convolution mixes the width (Conv node)" for refusal in widths.refusals)


def test_channels_that_leave_the_model_are_refused() -> None:
    model = canonical_vim(SCAN, 1)
    scan = selective_scans(model.graph)[0]
    model.graph.outputs.append(scan.outputs[0])
    widths = widths_of(model)
    assert [group.name for group in widths.of("inner")] == ["inner.1"]
    assert any(refusal.code.value == "width-in-output" for refusal in widths.refusals)


def test_a_second_cut_of_what_was_cut() -> None:
    model = canonical_vim(SCAN, 1)
    once = removed(model, chosen(model, "inner", share=0.75))
    arrays = chosen(once, "inner", share=0.5, seed=1)
    twice = once.clone()
    RemoveChannels(cuts_of(once, arrays), arrays).apply(twice)
    assert {constant_of(node.inputs[2]).shape[0] for node in selective_scans(twice.graph)} == {12}
    assert all(np.isfinite(value).all() for value in forward(twice, example(SCAN, 1)).values())
