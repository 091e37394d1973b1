"""MACs counted, and predicted for other numbers of tokens."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.flow import graph
from support.surgery import canonical, reduce
from support.tiny_torch import Spelling, build
from support.tiny_vim import VimSpelling, exported

from edgeprune.core.costs import count_macs, count_params, node_macs, token_cost
from edgeprune.core.recognition import recognize
from edgeprune.core.scans import carry_function, selective_scan, selective_scans
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.eliminate_tail import EliminateTail
from edgeprune_targets.lowering.scans import lower_scans


def real(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("item", "macs"),
    [
        (graph("y = MatMul(x, w)", w=real(12, 5)), 2 * 7 * 12 * 5),
        (graph("t = Transpose<perm=[0,2,1]>(x) y = MatMul(x, t)"), 2 * 7 * 7 * 12),
        (graph("y = Gemm(x, w)", "TD", w=real(12, 5)), 7 * 12 * 5),
        (graph("y = Gemm<transA=1, transB=1>(x, w)", "DT", w=real(5, 12)), 7 * 12 * 5),
        (graph("y = Conv<pads=[1,1]>(x, w)", "BET", w=real(6, 4, 3)), 2 * 7 * 6 * 4 * 3),
        (graph("y = Conv<group=4>(x, w)", "BET", w=real(4, 1, 2)), 2 * 6 * 4 * 2),
        (graph("y = ConvTranspose<strides=[2]>(x, w)", "BET", w=real(4, 6, 2)), 2 * 4 * 7 * 6 * 2),
        (graph('y = Einsum<equation="btd,de->bte">(x, w)', w=real(12, 5)), 2 * 7 * 12 * 5),
        (graph('y = Einsum<equation="btd->bdt">(x)'), 0),
        (graph("y = Add(x, x)"), 0),
        (graph("y = Softmax(x)"), 0),
    ],
)
def test_a_node_costs_its_products(item, macs):
    assert sum(map(node_macs, item.model().graph)) == macs


@pytest.mark.parametrize(
    "spelling",
    [
        Spelling(),
        Spelling(attention="mha"),
        Spelling(head="mean", prefix=0),
        Spelling(head="pool"),
        Spelling(head="grid"),
        Spelling(head="tokens", rope=True, prefix=3),
        Spelling(text=True, attention="grouped"),
    ],
    ids=str,
)
@pytest.mark.parametrize("tail", [False, True])
def test_predicted_macs_are_those_of_the_cut_graph(spelling, tail):
    """For a choice of tokens, which costs no product itself; a restored head sees all tokens again."""
    model = canonical(spelling, 2)
    if tail:
        EliminateTail().apply(model)
    found = recognize(model)
    cost = token_cost(model, found)
    prefix = found.found.prefix
    assert cost.macs([spelling.tokens] * len(cost.linear)) == count_macs(model)
    keep = {0: 9, 1: 6, 2: 4} if len(cost.blocks) > 2 else {0: 9, 1: 6}
    reduce(model, keep, "uniform", restore="last-seen")
    predicted = cost.macs([spelling.tokens, *(k + prefix for k in keep.values())])
    restored = spelling.head in {"grid", "tokens"}
    assert predicted == pytest.approx(count_macs(model), rel=1e-9 if not restored else 0.03)
    assert cost.blocks == tuple(keep)


def test_parameters_are_the_floating_weights_that_are_used():
    spelling = Spelling()
    module = build(spelling)
    used = {name: p for name, p in module.named_parameters() if not name.startswith(("other", "query", "decoder"))}
    folded = 3  # the scale of each block's queries
    expected = sum(p.numel() for p in used.values()) + folded
    assert abs(count_params(canonical(spelling, 1)) - expected) <= 25 * spelling.depth  # constants of GELU and scales


def _scan(batch: int = 2, tokens: int = 7) -> ir.Model:
    """One selective scan of 12 channels and 4 states."""
    sizes = ((batch, tokens, 12), (batch, tokens, 12), (12, 4), (batch, tokens, 4), (batch, tokens, 4))
    inputs = [
        ir.Value(name=n, shape=ir.Shape(s), type=ir.TensorType(ir.DataType.FLOAT))
        for n, s in zip("suABC", sizes, strict=True)
    ]
    node = selective_scan(inputs, name="y")
    made = ir.Graph(inputs, [node.outputs[0]], nodes=[node], opset_imports={"": 17}, name="scan")
    model = ir.Model(made, ir_version=8)
    carry_function(model)
    return model


def test_a_selective_scan_counts_update_and_read_out():
    assert count_macs(_scan()) == 2 * (2 * 7 * 12 * 4)


def test_a_loop_counts_its_body_for_every_step():
    model = _scan()
    lower_scans(model, "loop")
    assert "Scan" in {node.op_type for node in model.graph}
    assert count_macs(model) == 7 * (2 * 12 * 4)  # the read-out is a product, the update of the state is elementwise


def test_a_scan_costs_tokens_and_not_their_square():
    model = ir.from_proto(onnx.load_from_string(exported(VimSpelling(form="scan"))))
    Canonicalize(inputs={"image": (1, 3, 16, 16)}).apply(model)
    found = recognize(model)
    cost = token_cost(model, found)
    assert set(cost.square) == {0}
    assert cost.macs([found.found.tokens] * len(cost.square)) == pytest.approx(count_macs(model))
    scans = sum(node_macs(node) for node in selective_scans(model.graph))
    assert scans == 4 * 2 * 17 * 32 * 4  # four scans of 17 tokens, 32 channels, 4 states
