"""Canonical form computes what the export computed, from fewer and plainer operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from support.surgery import canonical, forward, prove_cuts, reduce
from support.tiny_torch import Spelling, build, example, exported, load, to_onnx

from edgeprune.core.errors import ModelError, PlanError
from edgeprune.core.graph import static_shape
from edgeprune_calibration.runner import Runner
from edgeprune_passes.canonicalize import Canonicalize


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "spelling", [Spelling(), Spelling(attention="mha"), Spelling(text=True, attention="eager")], ids=str
)
def test_the_numbers_stay_and_every_shape_is_known(spelling: Spelling, batch: int) -> None:
    model = canonical(spelling, batch)
    feeds = example(spelling, batch)
    wanted = Runner(exported(spelling), threads=1, optimise=False).run(feeds)
    for name, value in forward(model, feeds).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-6)  # folded constants are summed elsewhere
    assert all(static_shape(value) is not None for node in model.graph for value in node.outputs)
    assert not {node.op_type for node in model.graph} & {"Shape", "Constant", "ConstantOfShape", "Dropout"}


ATTENTION = {
    "heads apart": ("q: 2,3,5,4 k: 2,3,5,4 v: 2,3,5,6", "", None),
    "heads joined": ("q: 2,5,12 k: 2,5,12 v: 2,5,12", "q_num_heads = 3, kv_num_heads = 3", None),
    "grouped": ("q: 2,5,12 k: 2,5,4 v: 2,5,4", "q_num_heads = 3, kv_num_heads = 1", None),
    "scaled": ("q: 2,3,5,4 k: 2,3,5,4 v: 2,3,5,4", "scale = 0.9", None),
    "capped": ("q: 2,3,5,4 k: 2,3,5,4 v: 2,3,5,4", "softcap = 0.7", None),
    "causal": ("q: 2,3,5,4 k: 2,3,5,4 v: 2,3,5,4", "is_causal = 1", None),
    "biased": ("q: 2,3,5,4 k: 2,3,5,4 v: 2,3,5,4", "", np.linspace(-2, 2, 25, dtype=np.float32).reshape(5, 5)),
    "masked": ("q: 2,3,5,4 k: 2,3,5,4 v: 2,3,5,4", "", np.tri(5, dtype=bool)[None, None]),
    "masked, capped, causal": (
        "q: 2,3,5,4 k: 2,3,5,4 v: 2,3,5,4",
        "softcap = 0.7, is_causal = 1",
        np.eye(5, dtype=bool) | (np.arange(5) < 3),
    ),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_the_attention_operator_becomes_plain_operators(name: str) -> None:
    shapes, attributes, mask = ATTENTION[name]
    sizes = {
        part.strip(": "): [int(i) for i in size.split(",")]
        for part, size in zip(*[iter(shapes.split())] * 2, strict=True)
    }
    inputs = ", ".join(f"float{size} {name}" for name, size in sizes.items())
    extra = ", m" if mask is not None else ""
    options = f"<{attributes}>" if attributes else ""
    body = f"y = Attention{options}(q, k, v{extra})"
    text = f'<ir_version: 11, opset_import: ["": 23]> g ({inputs}) => (float[n] y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    if mask is not None:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(mask, "m"))
    rng = np.random.default_rng(4)
    feeds = {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    (wanted,) = ReferenceEvaluator(proto).run(None, feeds)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    Canonicalize().apply(model)
    assert "Attention" not in {node.op_type for node in model.graph}
    np.testing.assert_allclose(forward(model, feeds)["y"], wanted, rtol=1e-4, atol=1e-5)  # scale on q, not on both


def test_an_attention_with_a_cache_is_an_error() -> None:
    text = """<ir_version: 11, opset_import: ["": 23]>
        g (float[1,2,3,4] q, float[1,2,3,4] k, float[1,2,3,4] v, float[1,2,5,4] pk, float[1,2,5,4] pv)
        => (float[1,2,3,4] y)
        { y, nk, nv = Attention(q, k, v, , pk, pv) }"""
    with pytest.raises(ModelError) as caught:
        Canonicalize().apply(ir.from_proto(onnx.parser.parse_model(text)))
    assert caught.value.message.endswith("uses a cache or more than one output")
    assert caught.value.hint == "export with opset 20 or lower, so that attention is written as plain operators"


GUARDED = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1,2,3,4] q, float[1,2,4,3] k, float[1,1,3,3] z) => (float[1,2,3,3] y) {{
    s = MatMul(q, k) t = Mul(s, half) m = Add({first}, {second}) p = Softmax<axis=-1>(m)
    n = IsNaN(p) y0 = Where(n, zero, p) y = Neg(y0) }}"""


def guarded(first: str, second: str, mask: np.ndarray) -> list[str]:
    proto = onnx.parser.parse_model(GUARDED.format(first=first, second=second))
    arrays = {"half": np.float32([0.5]), "zero": np.float32([0]), "mask": mask}
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    Canonicalize().apply(model)
    return [node.op_type for node in model.graph]


def test_a_mask_of_zeros_goes_with_its_guard() -> None:
    zeros = np.zeros((1, 1, 3, 3), np.float32)
    assert guarded("t", "mask", zeros) == ["MatMul", "Mul", "Softmax", "Neg"]
    assert guarded("mask", "t", zeros) == ["MatMul", "Mul", "Softmax", "Neg"]


def test_a_mask_that_masks_stays_with_its_guard() -> None:
    whole = ["MatMul", "Mul", "Add", "Softmax", "IsNaN", "Where", "Neg"]
    assert guarded("t", "mask", np.float32([0, 0, -1]).reshape(1, 1, 1, 3)) == whole
    assert guarded("t", "z", np.zeros(1, np.float32)) == whole


def test_an_fp16_stream_is_an_error_of_the_plan() -> None:
    spelling = Spelling()
    halves = {name: value.astype(np.float16) for name, value in example(spelling, 1).items()}
    model = load(to_onnx(build(spelling).half(), halves))
    Canonicalize(batch=1).apply(model)
    with pytest.raises(PlanError) as caught:
        reduce(model, {0: 9}, "random")
    assert (
        caught.value.message
        == "the stream `/blocks.0/Add_output_0` is FLOAT16, expected FLOAT: scores are computed in fp32"
    )
    assert caught.value.hint == "export the model in fp32; --precision fp16 types the engine"


@pytest.mark.slow
@pytest.mark.parametrize(
    "spelling",
    [
        Spelling(),
        Spelling(attention="mha", head="mean"),
        Spelling(rope=True, prefix=5),
        Spelling(text=True, attention="eager"),
    ],
    ids=str,
)
def test_the_other_exporter_is_cut_alike(spelling: Spelling) -> None:
    """torch.export writes each model in some seconds."""
    dense, pruned = canonical(spelling, 2, dynamo=True), canonical(spelling, 2, dynamo=True)
    plan = reduce(pruned, {0: 9, 1: 6}, "random", "tome")
    assert prove_cuts(dense, pruned, plan, [example(spelling, 2, 1)]).passed
