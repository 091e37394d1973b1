"""Rewrites beside the scan, trimmed convolutions, flips, the threshold of softplus: each gives the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.ssm import operators, raised, run

from edgeprune_passes.scans.causal_conv import pads_of

L, D = 7, 4
X = np.random.default_rng(0).standard_normal((2, D, L)).astype(np.float32)
FIRST = -(1 << 63)
CONSTANTS = {
    "w": np.random.default_rng(1).standard_normal((D, 1, 4)).astype(np.float32),
    "bias": np.arange(D, dtype=np.float32),
    "i0": np.array([0]),
    "i1": np.array([1]),
    "i2": np.array([2]),
    "iL": np.array([L]),
    "minus": np.array([-1]),
    "minus3": np.array([-3]),
    "minus99": np.array([-99]),
    "first": np.array([FIRST]),
    "reversed": np.arange(L)[::-1].copy(),
    "negative": -1 - np.arange(L),
    "swapped": np.array([1, 0, *range(2, L)]),
    "lengths": np.array([L, L]),
    "shorter": np.array([L, 3]),
    "pads": np.array([0, 0, 3, 0, 0, 0]),
    "pads_ones": np.array([0, 1, 3, 0, 0, 0]),
    "fill": np.array(0, np.float32),
    "fill1": np.array(1, np.float32),
    "limit": np.array(20, np.float32),
    "low": np.array(3, np.float32),
}


def model_of(lines: str, length: int = L) -> ir.Model:
    text = f'<ir_version: 9, opset_import: ["": 17]> g (float[2,{D},{L}] x) => (float[2,{D},{length}] y) {{ {lines} }}'
    proto = onnx.parser.parse_model(text)
    words = set(lines.replace("(", " ").replace(")", " ").replace(",", " ").split())
    for name in CONSTANTS.keys() & words:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(CONSTANTS[name], name))
    return ir.from_proto(proto)


def conv(pads: str, more: str = "") -> str:
    return f"c = Conv<group = {D}, kernel_shape = [4], pads = {pads}{more}>(x, w, bias)"


TRIMMED = {
    "behind": (f"{conv('[3, 3]')} y = Slice(c, i0, iL, i2)", L, (3, 0)),
    "behind, counted from the end": (f"{conv('[3, 3]')} y = Slice(c, i0, minus3, i2, i1)", L, (3, 0)),
    "in front": (f"{conv('[3, 3]')} y = Slice(c, i1, iL, i2)", L - 1, (2, 0)),
    "padded in front": (f"q = Pad(x, pads, fill) {conv('[0, 0]').replace('(x', '(q')} y = Identity(c)", L, (3, 0)),
}


@pytest.mark.parametrize("name", TRIMMED)
def test_what_is_cut_off_is_not_computed(name: str) -> None:
    lines, length, pads = TRIMMED[name]
    model = model_of(lines, length)
    made = raised(model)
    assert operators(made) == ["Conv"]
    assert pads_of(made.graph[0]) == pads
    np.testing.assert_array_equal(run(made, {"x": X})[0], run(model, {"x": X})[0])


UNTRIMMED = {
    "more is cut off than was padded": (f"{conv('[3, 1]')} y = Slice(c, i0, i2, i2)", 2),
    "every second position": (f"{conv('[3, 3]')} y = Slice(c, i0, iL, i2, i2)", 4),
    "another axis": (f"{conv('[3, 0]')} y = Slice(c, i0, i2, i1)", L),
    "read twice": (f"{conv('[3, 3]')} a = Slice(c, i0, iL, i2) m = ReduceMax(c) y = Add(a, m)", L),
    "strided": (f"{conv('[3, 3]', ', strides = [2]')} y = Slice(c, i0, i2, i2)", 2),
    "padded with ones": (f"q = Pad(x, pads, fill1) {conv('[0, 0]').replace('(x', '(q')} y = Identity(c)", L),
}


@pytest.mark.parametrize("name", UNTRIMMED)
def test_what_cannot_be_taken_into_the_convolution_stays(name: str) -> None:
    lines, length = UNTRIMMED[name]
    lines = lines.replace("float[2,4,7] y", "") if length == L else lines
    model = model_of(lines, length)
    if name == "another axis":
        model.graph.outputs[0].shape = ir.Shape([2, 2, L])
    made = raised(model)
    assert len(operators(made)) > 1
    np.testing.assert_array_equal(run(made, {"x": X})[0], run(model, {"x": X})[0])


TURNED = """t = Transpose<perm = [0, 2, 1]>(x) f = ReverseSequence<batch_axis = 0, time_axis = 1>(t, {lengths})
  y = Transpose<perm = [0, 2, 1]>(f)"""
FLIPS = {
    "slice": "y = Slice(x, minus, first, i2, minus)",
    "slice to far before the first": "y = Slice(x, minus, minus99, minus, minus)",
    "slice from the length": "y = Slice(x, iL, minus99, i2, minus)",
    "gather": "y = Gather<axis = 2>(x, reversed)",
    "gather from the end": "y = Gather<axis = -1>(x, negative)",
    # ReverseSequence takes time on one of the first two axes only.
    "reverse sequence": TURNED.format(lengths="lengths"),
}


@pytest.mark.parametrize("name", FLIPS)
def test_a_flip_has_one_spelling(name: str) -> None:
    lines = FLIPS[name]
    made = raised(model_of(lines))
    (node,) = [node for node in made.graph if node.op_type == "Slice"]
    said = [value.const_value.numpy().tolist() for value in node.inputs[1:]]
    assert said == [[-1], [FIRST], said[2], [-1]]
    np.testing.assert_array_equal(run(made, {"x": X})[0], X[:, :, ::-1])


def test_what_is_no_flip_stays() -> None:
    assert operators(raised(model_of("y = Gather<axis = 2>(x, swapped)"))) == ["Gather"]
    assert "ReverseSequence" in operators(raised(model_of(TURNED.format(lengths="shorter"))))


def test_two_flips_of_one_axis_are_none() -> None:
    made = raised(model_of("f = Gather<axis = 2>(x, reversed) g = Slice(f, minus, first, i2, minus) y = Neg(g)"))
    assert operators(made) == ["Neg"]
    other = raised(model_of("f = Slice(x, minus, first, i1, minus) g = Slice(f, minus, first, i2, minus) y = Neg(g)"))
    assert operators(other) == ["Slice", "Slice", "Neg"]


def softplus(limit: str) -> str:
    return f"s = Softplus(x) g = Greater(x, {limit}) y = Where(g, x, s)"


def test_the_threshold_of_softplus_is_nothing_in_fp32() -> None:
    model = model_of(softplus("limit"))
    made = raised(model)
    assert operators(made) == ["Softplus"]
    wide = {"x": np.linspace(-40, 60, X.size, dtype=np.float32).reshape(X.shape)}
    np.testing.assert_array_equal(run(made, wide)[0], run(model, wide)[0])
    assert operators(raised(model_of(softplus("low")))) == ["Softplus", "Greater", "Where"]
