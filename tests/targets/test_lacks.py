"""What a runtime lacks is named, with the node; what it has is not; and TensorRT-RTX agrees with both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from edgeprune_targets.builders.tensorrt_rtx import build
from edgeprune_targets.lacks import lacks
from edgeprune_targets.precision import to_fp16
from edgeprune_targets.profiles import load_target

CASES = {
    "NonZero": "g (float[1,50] x) => (int64[2,n] i) { [at] i = NonZero(x) }",
    "keeps 4000": "g (float[1,5000] x) => (float[1,4000] v, int64[1,4000] i) <int64[1] k={4000}> "
    "{ [at] v, i = TopK(x, k) }",
    "antialias": "g (float[1,3,8,8] x) => (float[1,3,4,4] y) <float[4] s={1,1,0.5,0.5}> "
    '{ [at] y = Resize<antialias=1, mode="linear">(x, , s) }',
    "reduction": "g (float[4,8] x, int64[2,8] i, float[2,8] u) => (float[4,8] y) "
    '{ [at] y = ScatterElements<reduction="add">(x, i, u) }',
    "in fp32": "g (float[1,2,5,64] q) => (float[1,2,5,64] y) { [at] y = Attention(q, q, q) }",
    "one output": "g (float16[1,2,5,64] q) => (float16[1,2,5,64] y, float16[1,2,5,5] p) "
    "{ [at] y, a, b, p = Attention<qk_matmul_output_mode=3>(q, q, q) }",
}


def _parsed(text: str) -> ir.Model:
    opset = 23 if "Attention" in text else 18
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {text}'))


@pytest.mark.parametrize("says", CASES)
def test_the_lack_is_named_with_its_node(says: str) -> None:
    (lack,) = lacks(_parsed(CASES[says]), load_target("rtx-4090"))
    assert lack.node == "at"
    assert says in lack.reason
    assert lack.remedy
    assert str(lack) == f"at: {lack.reason}; {lack.remedy}"


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("says", CASES)
def test_tensorrt_rtx_does_refuse_it(says: str, tmp_path: Path) -> None:
    data = ir.to_proto(_parsed(CASES[says])).SerializeToString()
    (result,) = build(data, [load_target("rtx-4090")], tmp_path)
    assert not result.built


@pytest.mark.usefixtures("rtx")
def test_turing_needs_fp16(make_encoder: Callable[..., ir.Model], tmp_path: Path) -> None:
    model, target = make_encoder(blocks=1), load_target("t4")
    assert "no fp32 MatMul for compute capability 7.5" in lacks(model, target)[0].reason
    assert not build(ir.to_proto(model).SerializeToString(), [target], tmp_path)[0].built
    assert lacks(model, load_target("rtx-4090")) == ()
    typed = to_fp16(model)
    assert lacks(typed, target) == ()
    assert build(ir.to_proto(typed).SerializeToString(), [target], tmp_path)[0].built


def test_tensorrt_on_jetson_has_non_zero_and_the_same_topk_limit() -> None:
    jetson = load_target("jetson-orin")
    assert lacks(_parsed(CASES["NonZero"]), jetson) == ()
    assert "TensorRT at most 3840" in lacks(_parsed(CASES["keeps 4000"]), jetson)[0].reason


@pytest.mark.parametrize("cut", ["", "topk", "merge"])
def test_what_surgery_inserts_is_never_lacking(make_encoder: Callable[..., ir.Model], cut: str) -> None:
    model = make_encoder(cut=cut)
    assert lacks(to_fp16(model), load_target("rtx-4090")) == ()
    assert lacks(to_fp16(model, fp32_products=False), load_target("t4")) == ()


@pytest.mark.usefixtures("rtx")
def test_turing_takes_scores_of_rounded_products(make_encoder: Callable[..., ir.Model], tmp_path: Path) -> None:
    model, turing = make_encoder(cut="merge"), load_target("rtx-2080-ti")
    (lack,) = lacks(to_fp16(model), turing)
    assert lack.node == "edgeprune/cls-topk/0/logits"
    typed = to_fp16(model, fp32_products=turing.fp32_products)
    (result,) = build(ir.to_proto(typed).SerializeToString(), [turing], tmp_path)
    assert (result.error, result.fused_attentions) == (None, 2)
