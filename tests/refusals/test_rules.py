"""What the flow refuses, word for word, node by node."""

from __future__ import annotations

import numpy as np
import pytest
from support.flow import Graph, P, T, flow_of, graph, ints

from edgeprune.core.refusals import RefusalCode

LAST = 2**63 - 1


def real(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


CASES: dict[str, tuple[Graph, str, str, str]] = {
    "split of the tokens": (
        graph("y = Reshape(x, s)", "BTD", s=ints(2, 4, 21)),
        "token-axis-split",
        "the token axis is split by a reshape to [2, 4, 21] (Reshape node)",
        "Reshape0",
    ),
    "slice inside the patches": (
        graph("y = Slice(x, s, e, a)", s=ints(0), e=ints(4), a=ints(1)),
        "slice-inside-patches",
        "the tokens are cut in two at 4 (Slice node)",
        "Slice0",
    ),
    "every second token": (
        graph("y = Slice(x, s, e, a, t)", s=ints(0), e=ints(T), a=ints(1), t=ints(2)),
        "slice-inside-patches",
        "tokens are sliced with a step, or merged with another axis (Slice node)",
        "Slice0",
    ),
    "split in the middle": (
        graph("p, y = Split<axis=1>(x, s)", s=ints(3, 4)),
        "slice-inside-patches",
        "the tokens are cut in two at 3 (Split node)",
        "Split0",
    ),
    "one patch": (
        graph("y = Gather<axis=1>(x, i)", i=np.asarray(P)),
        "removable-token-gathered",
        "token 2 is picked by a constant index, but may be removed (Gather node)",
        "Gather0",
    ),
    "the last token": (
        graph("y = Gather<axis=1>(x, i)", i=np.asarray(-1)),
        "removable-token-gathered",
        "token 6 is picked by a constant index, but may be removed (Gather node)",
        "Gather0",
    ),
    "a token by a computed index": (
        graph("i = Cast<to=7>(z) y = Gather<axis=1>(x, i)", z=(2,)),
        "runtime-token-gather",
        "a token is picked by an index computed at run time (Gather node)",
        "Gather1",
    ),
    "token by element": (
        graph("y = GatherElements<axis=1>(x, i)", i=np.zeros((2, 3, 12), np.int64)),
        "runtime-token-gather",
        "tokens are picked element by element (GatherElements node)",
        "GatherElements0",
    ),
    "the largest token": (
        graph("i = ArgMax<axis=1, keepdims=0>(x) y = Cast<to=1>(i)"),
        "runtime-token-gather",
        "a position among the tokens is computed at run time (ArgMax node)",
        "ArgMax0",
    ),
    "the largest tokens": (
        graph("y, i = TopK<axis=1>(x, k)", k=ints(3)),
        "runtime-token-gather",
        "a position among the tokens is computed at run time (TopK node)",
        "TopK0",
    ),
    "part of the batch": (
        graph("y = Slice(x, s, e, a)", s=ints(0), e=ints(1), a=ints(0)),
        "no-rule",
        "a part of the batch is taken (Slice node)",
        "Slice0",
    ),
    "sum of tokens": (
        graph("y = ReduceSum(x, a)", a=ints(1)),
        "contraction-without-softmax",
        "tokens are summed without a softmax before (ReduceSum node)",
        "ReduceSum0",
    ),
    "sum of tokens by an equation": (
        graph('y = Einsum<equation="btd->bd">(x)'),
        "contraction-without-softmax",
        "tokens are summed by an Einsum (Einsum node)",
        "Einsum0",
    ),
    "channel attention": (
        graph("t = Transpose<perm=[0,2,1]>(x) y = MatMul(t, x)"),
        "contraction-without-softmax",
        "tokens are contracted without a softmax over them (channel or linear attention) (MatMul node)",
        "MatMul1",
    ),
    "mixed with weights": (
        graph("t = Transpose<perm=[0,2,1]>(x) y = MatMul(t, w)", w=real(T, 5)),
        "contraction-with-weight",
        "tokens are contracted with something of a fixed length (MatMul node)",
        "MatMul1",
    ),
    "mixed by an equation": (
        graph('y = Einsum<equation="btd,tq->bqd">(x, w)', w=real(T, 5)),
        "contraction-with-weight",
        "tokens are contracted with something of a fixed length (Einsum node)",
        "Einsum0",
    ),
    "weights per token in an equation": (
        graph('y = Einsum<equation="btd,td->btd">(x, w)', w=real(T, 12)),
        "position-bound",
        "an Einsum operand of the old length is aligned with the tokens (Einsum node)",
        "Einsum0",
    ),
    "normalised over tokens": (
        graph("y = LayerNormalization<axis=1>(x, g)", g=real(T, 12)),
        "normalised-over-tokens",
        "a normalisation runs over the tokens (LayerNormalization node)",
        "LayerNormalization0",
    ),
    "instance normalisation": (
        graph("y = InstanceNormalization(x, g, c)", "BDT", g=real(12), c=real(12)),
        "normalised-over-tokens",
        "a normalisation runs over the tokens (InstanceNormalization node)",
        "InstanceNormalization0",
    ),
    "batch normalisation of tokens": (
        graph("y = BatchNormalization(x, g, c, m, v)", g=real(T), c=real(T), m=real(T), v=real(T)),
        "normalised-over-tokens",
        "a normalisation runs over the tokens (BatchNormalization node)",
        "BatchNormalization0",
    ),
    "squeeze and excite": (
        graph("m = ReduceMean(x, a) s = Sigmoid(m) y = Mul(x, s)", a=ints(1)),
        "pooled-value-reenters",
        "a statistic over all tokens meets the tokens again (Mul node)",
        "Mul2",
    ),
    "weights from a pool": (
        graph("m = ReduceMean(x, a) s = Transpose<perm=[0,2,1]>(m) y = MatMul(x, s)", a=ints(1)),
        "pooled-value-reenters",
        "a statistic over all tokens meets the tokens again (MatMul node)",
        "MatMul2",
    ),
    "a token of the mean": (
        graph("m = ReduceMean(x, a) y = Concat<axis=1>(m, x)", a=ints(1)),
        "pooled-value-reenters",
        "a statistic over all tokens meets the tokens again (Concat node)",
        "Concat1",
    ),
    "neighbouring tokens": (
        graph("y = Conv<pads=[1,1]>(x, w)", "BET", w=real(4, 4, 3)),
        "convolution-over-tokens",
        "a convolution or pool runs over neighbouring tokens (Conv node)",
        "Conv0",
    ),
    "pooled neighbours": (
        graph("y = AveragePool<kernel_shape=[3]>(x)", "BET"),
        "convolution-over-tokens",
        "a convolution or pool runs over neighbouring tokens (AveragePool node)",
        "AveragePool0",
    ),
    "tokens as channels": (
        graph("y = Conv(x, w)", w=real(4, T, 1)),
        "contraction-with-weight",
        "a convolution contracts the tokens (Conv node)",
        "Conv0",
    ),
    "padded tokens": (
        graph("y = Pad(x, p)", p=ints(0, 1, 0, 0, 0, 0)),
        "convolution-over-tokens",
        "the token axis is resampled or padded by position (Pad node)",
        "Pad0",
    ),
    "one after another": (
        graph("y = CumSum(x, a)", a=np.asarray(1)),
        "scan-over-tokens",
        "tokens are processed one after another (CumSum node)",
        "CumSum0",
    ),
    "shifted against themselves": (
        graph(
            "r = Slice(x, s, e, a) p = Slice(x, z, s, a) c = Concat<axis=1>(r, p) y = Add(x, c)",
            s=ints(P),
            e=ints(LAST),
            a=ints(1),
            z=ints(0),
        ),
        "token-segments-differ",
        "two operands carry different tokens along one axis (Add node)",
        "Add3",
    ),
    "repeated tokens": (
        graph("y = Tile(x, s)", s=ints(1, 2, 1)),
        "position-bound",
        "the tokens, grid or batch are repeated (Tile node)",
        "Tile0",
    ),
    "a table for merged axes": (
        graph("r = Reshape(x, s) y = Add(r, c)", s=ints(2, -1), c=real(T * 12)),
        "position-bound",
        "an operand of the old length meets tokens merged with another axis (Add node)",
        "Add1",
    ),
    "softmax over merged axes": (
        graph("r = Reshape(x, s) y = Softmax<axis=-1>(r)", s=ints(2, -1)),
        "token-axis-split",
        "a softmax runs over tokens merged with another axis (Softmax node)",
        "Softmax1",
    ),
    "no rule": (
        graph("y = Trilu(x)"),
        "no-rule",
        "the operator Trilu has no rule for tokens",
        "Trilu0",
    ),
    "a shape that is computed": (
        graph("s = Cast<to=7>(z) r = Reshape(x, s) y = Relu(r)", z=(3,)),
        "unknown-shape",
        "the output has no static shape (Reshape node)",
        "Reshape1",
    ),
    "a product with a vector": (
        graph("y = MatMul(x, w)", w=real(12)),
        "no-rule",
        "a product with a vector has no rule (MatMul node)",
        "MatMul0",
    ),
    "a loop": (
        graph(
            "t = Transpose<perm=[1,0,2]>(x) y, h, c = LSTM<hidden_size=5>(t, w, r)", w=real(1, 20, 12), r=real(1, 20, 5)
        ),
        "scan-over-tokens",
        "tokens are processed one after another (LSTM node)",
        "LSTM1",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rule_refuses_with_code_sentence_and_node(name: str) -> None:
    item, code, reason, node = CASES[name]
    flow, model = flow_of(item)
    assert [(r.code.value, r.reason, r.at) for r in flow.refusals.values()] == [(code, reason, (node,))]
    assert model.graph.outputs[0] in flow.stopped
    assert model.graph.outputs[0] not in flow.labels


# Said by recognition, strategies or passes, not by a rule.
ELSEWHERE = {
    "no-attention",
    "no-token-source",
    "no-cut-point",
    "window-partition",
    "patch-tokens-in-output",
    "no-class-token",
    "not-applicable",
    "no-read-out",
    "grid-connector",
    "width-bound",
    "width-in-output",
    "normalised-over-width",
    "not-a-selective-scan",
}


def test_every_code_that_a_rule_uses_is_tried() -> None:
    tried = {code for _, code, _, _ in CASES.values()}
    assert tried == {code.value for code in RefusalCode} - ELSEWHERE
