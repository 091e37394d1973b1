"""Counting the attentions of a graph."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest

from edgeprune_targets.attentions import core_of, count_attentions, is_attention


def _parsed(body: str, opset: int = 17) -> ir.Model:
    head = f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]> '
    qkv = "float[1,2,5,8] q, float[1,2,8,5] k, float[1,2,5,8] v, bool[1,1,5,5] keep"
    return ir.from_proto(onnx.parser.parse_model(f"{head} g ({qkv}) => (float[1,2,5,8] y) {body}"))


@pytest.mark.parametrize("cut", ["", "topk", "merge"])
def test_side_branches_are_not_counted(make_encoder: Callable[..., ir.Model], cut: str) -> None:
    assert count_attentions(make_encoder(blocks=3, cut=cut)) == 3


def test_through_scale_mask_casts_and_a_nan_guard() -> None:
    model = _parsed("""<float s = {0.3}, float out = {-1e4}, float zero = {0}> {
        a = MatMul(q, k)  b = Mul(a, s)  m = Where(keep, zero, out)  c = Add(b, m)  d = Cast<to = 1>(c)
        [soft] p = Softmax<axis=-1>(d)  n = IsNaN(p)  g = Where(n, zero, p)  y = MatMul(g, v) }""")
    assert count_attentions(model) == 1
    soft = model.graph.node("soft")
    assert {node.op_type for node in core_of(soft)} == {"MatMul", "Mul", "Add", "Cast", "Softmax", "IsNaN", "Where"}


def test_a_softmax_of_a_projection_is_no_attention() -> None:
    model = _parsed("<float[8,5] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}>"
                    "{ a = MatMul(q, w)  p = Softmax<axis=-1>(a)  y = MatMul(p, v) }")  # fmt: skip
    assert count_attentions(model) == 0


def test_a_softmax_that_mixes_nothing_is_no_attention() -> None:
    model = _parsed("{ a = MatMul(q, k)  p = Softmax<axis=-1>(a)  s = ReduceSum(p)  y = Add(q, s) }")
    assert count_attentions(model) == 0


def test_the_operators_count() -> None:
    model = _parsed("{ kt = Transpose<perm=[0,1,3,2]>(k)  y = Attention(q, kt, v) }", opset=23)
    assert count_attentions(model) == 1
    assert sum(is_attention(node) for node in model.graph) == 1
