"""What a runtime lacks is named, with the node; what it has is not; and TensorRT-RTX agrees with both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from support.rtx import build

from edgeprune_targets.findings import Finding
from edgeprune_targets.lacks import findings
from edgeprune_targets.lowering import lower
from edgeprune_targets.precision import to_fp16
from edgeprune_targets.profiles import Target, load_target
from edgeprune_targets.runtimes import RUNTIMES, Runtime, runtime_for

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


def lacks(model: ir.Model, target: Target) -> list[Finding]:
    """The errors for the runtime that a target is assumed to have."""
    return [found for found in findings(model, runtime_for(target), target) if found.severity == "error"]


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
    assert lacks(model, load_target("rtx-4090")) == []
    typed = to_fp16(model)
    assert lacks(typed, target) == []
    assert build(ir.to_proto(typed).SerializeToString(), [target], tmp_path)[0].built


def test_tensorrt_on_jetson_has_non_zero_and_the_same_topk_limit() -> None:
    jetson = load_target("jetson-orin")
    assert lacks(_parsed(CASES["NonZero"]), jetson) == []
    assert "TensorRT 10.3 at most 3840" in lacks(_parsed(CASES["keeps 4000"]), jetson)[0].reason


@pytest.mark.parametrize("cut", ["", "topk", "merge"])
def test_what_surgery_inserts_is_never_lacking(make_encoder: Callable[..., ir.Model], cut: str) -> None:
    model = make_encoder(cut=cut)
    assert lacks(to_fp16(model), load_target("rtx-4090")) == []
    assert lacks(to_fp16(model, fp32_products=False), load_target("t4")) == []


@pytest.mark.usefixtures("rtx")
def test_turing_takes_scores_of_rounded_products(make_encoder: Callable[..., ir.Model], tmp_path: Path) -> None:
    model, turing = make_encoder(cut="merge"), load_target("rtx-2080-ti")
    (lack,) = lacks(to_fp16(model), turing)
    assert lack.node == "edgeprune/cls-topk/0/logits"
    typed = to_fp16(model, fp32_products=turing.fp32_products)
    (result,) = build(ir.to_proto(typed).SerializeToString(), [turing], tmp_path)
    assert (result.error, result.fused_attentions) == (None, 2)


ORIN = "jetson-orin"
BY_NAME = {runtime.name.removeprefix("tensorrt-"): runtime for runtime in RUNTIMES}


def _proto(body: str, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]> g {body}')


def _found(body: str, version: str, opset: int = 17, target: str = ORIN) -> list[Finding]:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(_proto(body, opset)))
    return list(findings(model, BY_NAME[version], load_target(target)))


SCATTER = (
    '(float[4,8] x, int64[2,1] i, float[2,8] u) => (float[4,8] y) { [at] y = ScatterND<reduction="add">(x, i, u) }'
)
ELEMENTS = '(float[4] x, int64[2] i, float[2] u) => (float[4] y) { [at] y = ScatterElements<reduction="add">(x, i, u) }'
NORM = "(float[2,8] x, float[8] w) => (float[2,8] y) { [at] y = LayerNormalization(x, w) }"
TOPK_RUNTIME = "(float[1,8] x, int64[1] k) => (float[1,n] y, int64[1,n] i) { [at] y, i = TopK(x, k) }"
TOPK_INTEGERS = "(int64[1,8] x) => (int64[1,2] y, int64[1,2] i) <int64[1] k={2}> { [at] y, i = TopK(x, k) }"
CUMSUM = "(float[8] x, int64 a) => (float[8] y) { [at] y = CumSum(x, a) }"
DIAGONAL = '(float[3,3] x) => (float[3] y) { [at] y = Einsum<equation="ii->i">(x) }'
ATTENTION = "(float16[1,2,5,64] q) => (float16[1,2,5,64] y) { [at] y = Attention(q, q, q) }"
# body, runtime, opset, severity, part of the reason
RULES = {
    "8.5 has no LayerNormalization": (NORM, "8.5", 17, "error", "has no LayerNormalization, it came with TensorRT 8.6"),
    "8.6 has": (NORM, "8.6", 17, "", ""),
    "8.5 ignores a reduction": (SCATTER, "8.5", 16, "error", "8.5 ignores the reduction of ScatterND"),
    "8.6 too": (ELEMENTS, "8.6", 16, "error", "8.6 ignores the reduction of ScatterElements"),
    "10.3 takes a plug-in for it": (ELEMENTS, "10.3", 16, "warning", "needs the plug-in library of TensorRT 10.3"),
    "and has none for the other": (SCATTER, "10.3", 16, "error", "TensorRT 10.3 has no ScatterND with a reduction"),
    "K of 8.5": (TOPK_RUNTIME, "8.5", 17, "error", "TensorRT 8.5 wants K of TopK as a constant"),
    "K of 8.6": (TOPK_RUNTIME, "8.6", 17, "", ""),
    "whole numbers at 8.5": (TOPK_INTEGERS, "8.5", 17, "warning", "TopK of int32 is not documented for TensorRT 8.5"),
    "whole numbers at 10.3": (TOPK_INTEGERS, "10.3", 17, "", ""),
    "axis of CumSum": (CUMSUM, "10.3", 17, "error", "TensorRT 10.3 wants axis of CumSum as a constant"),
    "axis of CumSum later": (CUMSUM, "10.16", 17, "", ""),
    "a diagonal": (DIAGONAL, "10.3", 17, "error", "TensorRT 10.3 has no Einsum that takes a diagonal"),
    "a diagonal later": (DIAGONAL, "10.16", 17, "", ""),
    "Attention": (ATTENTION, "10.3", 20, "error", "has no Attention, it came with TensorRT 10.14"),
    "Attention later": (ATTENTION, "10.16", 23, "", ""),
    "NonZero": ("(float[1,50] x) => (int64[2,n] i) { [at] i = NonZero(x) }", "10.16", 17, "warning", "no static size"),
    "bfloat16": ("(bfloat16[8] x) => (bfloat16[8] y) { [at] y = Add(x, x) }", "8.6", 17, "error", "8.6 has no bf16"),
    "of ONNX Runtime": (
        "(float[8] x) => (float[8] y) { [at] y = com.microsoft.FastGelu(x) }", "10.3", 17, "error",
        "TensorRT 10.3 has no com.microsoft FastGelu",
    ),
    "unknown": ("(float[8] x) => (float[8] y) { [at] y = Novel(x) }", "11", 17, "warning", "does not know whether"),
    "an opset too new": ("(float[8] x) => (float[8] y) { y = Add(x, x) }", "8.6", 20, "error", "reads up to 17"),
    "large numbers": (
        "(int64[1] x) => (int64[1] y) <int64[1] c={9000000000}> { [at] y = Add(x, c) }", "8.6", 17, "warning",
        "beyond INT32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RULES)
def test_a_rule_of_one_version(case: str) -> None:
    body, version, opset, severity, says = RULES[case]
    found = [finding for finding in _found(body, version, opset) if "attention is not fused" not in finding.reason]
    serious = [finding for finding in found if finding.severity != "note"]
    assert [finding.severity for finding in serious] == ([severity] if severity else [])
    if severity:
        assert says in serious[0].reason
        assert serious[0].node == ("graph" if "opset" in case else "at")
        assert serious[0].remedy


def test_integers_come_in_as_int32_in_old_versions() -> None:
    body = "(int64[1,8] ids) => (int64[1,8] y) { y = Add(ids, ids) }"
    (note,) = _found(body, "8.6")
    assert (note.severity, note.node) == ("note", "ids")
    assert note.reason == "the input is INT64, TensorRT 8.6 binds it as INT32"
    assert _found(body, "10.3") == []


def _attention(
    q: str = "1,2,17,64",
    v: str = "1,2,17,64",
    middle: str = "p = Softmax<axis=-1>(a)",
    more: str = "",
    kind: str = "float16",
) -> str:
    """An attention over `q` and `v` as ONNX text; `more` are further outputs."""
    *head, tokens, size = q.split(",")
    *_, keys, wide = v.split(",")
    key, out = ",".join([*head, size, keys]), ",".join([*head, tokens, wide])
    inputs = f"{kind}[{q}] q, {kind}[{key}] k, {kind}[{v}] v, {kind}[1,1,{tokens},{keys}] m"
    return f"({inputs}) => ({kind}[{out}] y{more}) {{ a = MatMul(q, k) {middle} y = MatMul(p, v) }}"


def _warned(text: str, version: str = "rtx-1", target: str = "rtx-4090") -> list[str]:
    return [finding.reason for finding in _found(text, version, target=target) if finding.severity == "warning"]


# What TensorRT-RTX 1.7.1 does is held against these by `test_the_builder_agrees_about_fusion`.
UNFUSED: dict[str, tuple[dict[str, str], str]] = {
    "head size": ({"q": "1,2,17,8", "v": "1,2,17,8"}, "head size 8, expected 9 to 256"),
    "two head sizes": ({"v": "1,2,17,32"}, "queries have head size 64, values 32"),
    "one head": ({"q": "1,1,17,64", "v": "1,1,17,64"}, "it has a single head at batch 1"),
    "probabilities as an output": (
        {"middle": "o = Softmax<axis=-1>(a) p = Identity(o)", "more": ", float16[1,2,17,17] o"},
        "the graph output `o` reads its scores a second time",
    ),
    "one head and a mask, long rows": (
        {"q": "4,1,513,64", "v": "4,1,513,64", "middle": "b = Add(a, m) p = Softmax<axis=-1>(b)"},
        "it has a single head and a mask",
    ),
    "a policy, long rows": (
        {"q": "1,2,513,64", "v": "1,2,513,64", "middle": "o = Softmax<axis=-1>(a) p = Mul(o, m)"},
        "its probabilities are changed after the softmax",
    ),
    "a policy, another head size": (
        {"q": "1,2,17,48", "v": "1,2,17,48", "middle": "o = Softmax<axis=-1>(a) p = Mul(o, m)"},
        "its probabilities are changed after the softmax",
    ),
}
FUSED: dict[str, dict[str, str]] = {
    "plain": {},
    "a mask": {"middle": "b = Add(a, m) p = Softmax<axis=-1>(b)"},
    "one head in a batch": {"q": "4,1,17,64", "v": "4,1,17,64"},
    "one head and a mask, whole rows": {
        "q": "4,1,512,64", "v": "4,1,512,64", "middle": "b = Add(a, m) p = Softmax<axis=-1>(b)",
    },
    "a policy, whole rows": {"q": "1,2,512,32", "v": "1,2,512,32", "middle": "o = Softmax<axis=-1>(a) p = Mul(o, m)"},
    "one head and a mask": {
        "q": "4,1,17,64", "v": "4,1,17,64", "middle": "b = Add(a, m) p = Softmax<axis=-1>(b)",
    },
    "a policy": {"middle": "o = Softmax<axis=-1>(a) p = Mul(o, m)"},
}  # fmt: skip


@pytest.mark.parametrize("case", UNFUSED)
def test_attention_that_will_not_be_fused_is_said_with_its_reason(case: str) -> None:
    shape, reason = UNFUSED[case]
    assert _warned(_attention(**shape)) == [f"attention is not fused: {reason}"]


@pytest.mark.parametrize("case", FUSED)
def test_attention_that_will_be_fused_is_no_finding(case: str) -> None:
    assert _warned(_attention(**FUSED[case])) == []


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("case", [*UNFUSED, *FUSED])
def test_the_builder_agrees_about_fusion(case: str, tmp_path: Path) -> None:
    shape = UNFUSED[case][0] if case in UNFUSED else FUSED[case]
    (result,) = build(_proto(_attention(**shape)).SerializeToString(), [load_target("rtx-3090")], tmp_path)
    assert (result.error, result.fused_attentions) == (None, int(case in FUSED))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"q": "1,2,17,20", "v": "1,2,17,20"}, "head size 20, expected 16 to 256 in steps of 8"),
        ({"q": "2,17,64", "v": "2,17,64"}, "heads and batch share an axis, expected four axes"),
        ({"kind": "float"}, "there are no fused kernels for fp32"),
        (FUSED["one head and a mask"], "it has a single head and a mask"),
        (FUSED["a policy"], "its probabilities are changed after the softmax"),
    ],
)
def test_full_tensorrt_wants_more_of_attention(shape: dict[str, str], reason: str) -> None:
    assert _warned(_attention(**shape), "10.3", ORIN) == [f"attention is not fused: {reason}"]
    assert _warned(_attention(), "10.3", ORIN) == []


def test_old_devices_and_versions_have_no_kernels() -> None:
    assert _warned(_attention(), "8.5", ORIN) == ["attention is not fused: TensorRT 8.5 has no such kernels for Orin"]
    reason = "attention is not fused: there are no kernels for compute capability 7.2"
    assert _warned(_attention(), "8.5", "jetson-agx-xavier") == [reason]


def test_versions_whose_kernels_have_been_wrong_are_noted() -> None:
    (note,) = _found(_attention(), "10.3")
    assert note.severity == "note"
    assert "issue 4723" in note.reason
    assert "--no-fused-attention" in note.remedy
    assert "issue 4837" in _found(_attention(), "10.16", target="rtx-5090")[0].reason
    assert _found(_attention(), "10.16") == []


def test_attention_that_is_lowered_unfused_on_request_is_no_finding(make_encoder: Callable[..., ir.Model]) -> None:
    target = load_target("rtx-4090")
    lowered = lower(make_encoder(blocks=2), runtime_for(target), target, "fp16", fused_attention=False)
    assert "not fused" in findings(lowered.model, runtime_for(target), target)[0].reason
    assert findings(lowered.model, runtime_for(target), target, fused_attention=False) == ()


def test_nodes_of_one_reason_share_a_finding(make_encoder: Callable[..., ir.Model]) -> None:
    runtime: Runtime = runtime_for(load_target(ORIN), "8.5")
    found = findings(make_encoder(blocks=3), runtime, load_target(ORIN))
    (norms,) = [finding for finding in found if "LayerNormalization" in finding.reason]
    assert len(norms.also) == 6  # two a block, and the last
    assert str(norms).startswith(f"{norms.node} and 6 more: TensorRT 8.5 has no LayerNormalization")
    lowered = lower(make_encoder(blocks=3), runtime, load_target(ORIN), "fp16")
    assert [f.severity for f in findings(lowered.model, runtime, load_target(ORIN), precision="fp16")] == ["warning"]


def test_errors_come_first() -> None:
    body = (
        "(float[1,50] x, float[8] w) => (int64[2,n] i, float[2,8] y) { i = NonZero(x) z = Compress(x, x) y = Novel(z) }"
    )
    assert [finding.severity for finding in _found(body, "10.3")] == ["error", "warning", "warning"]
