"""The typed fp16 graph: types, what stays fp32, masks, constants, and how far it is from fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeprune.core.errors import TargetError
from edgeprune_targets.fp32_rules import fp32_nodes, is_score_node
from edgeprune_targets.precision import to_fp16

Run = Callable[[ir.Model, dict[str, np.ndarray]], list[np.ndarray]]
FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def _parsed(text: str, opset: int = 17) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}'))


def _types(model: ir.Model) -> dict[str, Any]:
    """Type of each node's first output by node name."""
    return {str(node.name): node.outputs[0].dtype for node in model.graph}


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("cut", ["", "topk", "merge"])
def test_the_typed_graph_runs_and_is_near(make_encoder: Callable[..., ir.Model], run_onnx: Run, cut: str) -> None:
    model = make_encoder(cut=cut, blocks=3, width=64)
    typed = to_fp16(model)
    assert [value.dtype for value in (*typed.graph.inputs, *typed.graph.outputs)] == [FLOAT, FLOAT]
    assert [value.name for value in (*typed.graph.inputs, *typed.graph.outputs)] == ["x", "y"]
    feeds = {"x": _noise(1, 17, 64)}
    (dense,), (half,) = run_onnx(model, feeds), run_onnx(typed, feeds)
    assert np.abs(half - dense).max() < 4e-3 * np.abs(dense).max()  # 2^-11 a step, a dozen steps deep
    assert np.abs(half - dense).max() > 0  # it did compute in fp16


def test_the_source_model_is_left_alone(make_encoder: Callable[..., ir.Model]) -> None:
    model = make_encoder(cut="merge")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    first = ir.to_proto(to_fp16(model)).SerializeToString(deterministic=True)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert ir.to_proto(to_fp16(model)).SerializeToString(deterministic=True) == first


def test_all_products_of_the_model_are_fp16(make_encoder: Callable[..., ir.Model]) -> None:
    typed = to_fp16(make_encoder(cut="merge"))
    own = [node for node in typed.graph if node.op_type == "MatMul" and not is_score_node(node)]
    assert len(own) == 18  # 8 in each of 2 blocks, the merge, the head
    assert {node.outputs[0].dtype for node in own} == {HALF}


def test_scores_stay_fp32_and_the_stream_does_not(make_encoder: Callable[..., ir.Model]) -> None:
    typed = _types(to_fp16(make_encoder(cut="merge")))
    for name in ("cls-topk/0/logits", "cls-topk/0/softmax", "merge/0/matrix", "merge/0/size", "merge/0/log"):
        assert typed[f"edgeprune/{name}"] == FLOAT, name
    for name in ("merge/0/stream", "bias/1/add"):
        assert typed[f"edgeprune/{name}"] == HALF, name
    gathered = _types(to_fp16(make_encoder(cut="topk")))
    assert gathered["edgeprune/cut/0/gather"] == HALF


def test_the_values_of_a_cut_keep_their_names_and_types(make_encoder: Callable[..., ir.Model]) -> None:
    typed = to_fp16(make_encoder(cut="merge"))
    values = {value.name: value.dtype for node in typed.graph for value in node.outputs}
    assert values["edgeprune/cut/0/index"] == ir.DataType.INT64
    assert values["edgeprune/cut/0/matrix"] == values["edgeprune/cut/0/size"] == FLOAT


def test_no_detour_over_fp16_between_two_fp32_nodes(make_encoder: Callable[..., ir.Model]) -> None:
    for node in to_fp16(make_encoder(cut="merge")).graph:
        if node.op_type != "Cast" or node.outputs[0].dtype != FLOAT:
            continue
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        assert before is None or before.op_type != "Cast"


def test_a_spelled_out_norm_of_large_values_stays_fp32(run_onnx: Run) -> None:
    model = _parsed("""g (float[2,8] x) => (float[2,8] y)
        <float c = {2}, float eps = {1e-6}, float[8] w = {1,1,1,1,1,1,1,1}> {
        [mean] m = ReduceMean<axes=[-1]>(x)  [sub] d = Sub(x, m)  [pow] p = Pow(d, c)
        [var] v = ReduceMean<axes=[-1]>(p)  [eps] e = Add(v, eps)  [sqrt] s = Sqrt(e)
        [div] n = Div(d, s)  [scale] y = Mul(n, w) }""")
    x = 1000 * _noise(2, 8)  # squares up to 10^7
    typed = to_fp16(model)
    (dense,), (half,) = run_onnx(model, {"x": x}), run_onnx(typed, {"x": x})
    assert np.abs(half - dense).max() < 2e-3  # values near 1, rounded a few times at 2^-11
    types = _types(typed)
    assert {types[name] for name in ("mean", "sub", "pow", "var", "eps", "sqrt", "div")} == {FLOAT}
    assert types["scale"] == HALF


def test_the_residual_add_before_a_spelled_out_norm_is_not_taken_along() -> None:
    model = _parsed("""g (float[2,8] x, float[2,8] z) => (float[2,8] y) <float c = {2}, float eps = {1e-6}> {
        [residual] r = Add(x, z)  [mean] m = ReduceMean<axes=[-1]>(r)  [sub] d = Sub(r, m)  [pow] p = Pow(d, c)
        [var] v = ReduceMean<axes=[-1]>(p)  [eps] e = Add(v, eps)  [sqrt] s = Sqrt(e)  [div] n = Div(d, s)
        [out] y = Add(n, r) }""")
    kept = {node.name for node in fp32_nodes(model)}
    assert kept == {"mean", "sub", "pow", "var", "eps", "sqrt", "div"}


def test_a_constant_shared_by_fp32_and_fp16_nodes_keeps_its_digits(run_onnx: Run) -> None:
    model = _parsed("""g (float[2,8] x) => (float[2,8] y, float[2,1] z) <float c = {0.1}> {
        [half] y = Mul(x, c)  [mean] m = ReduceMean<axes=[-1]>(x)  [own] z = Mul(m, c) }""")
    typed = to_fp16(model, keep_fp32=lambda node: node.name == "own")
    x = _noise(2, 8)
    y, z = run_onnx(typed, {"x": x})
    assert z == pytest.approx(x.mean(-1, keepdims=True) * 0.1, rel=1e-6)  # 0.1 in fp16 is off by 2e-4
    assert y == pytest.approx(x * 0.1, abs=1e-3)
    assert sorted(str(value.dtype) for value in typed.graph.initializers.values()) == ["FLOAT", "FLOAT16"]


@pytest.mark.parametrize("sentinel", ["-3.4028235e38", "-1e9", "-1e4"])
def test_a_mask_added_twice_still_masks_and_a_full_row_stays_finite(run_onnx: Run, sentinel: str) -> None:
    model = _parsed(f"""g (float[2,4] x, bool[2,4] keep) => (float[2,4] y)
        <float out = {{{sentinel}}}, float zero = {{0}}> {{
        a = Where(keep, zero, out)  b = Add(x, a)  c = Add(b, a)  y = Softmax<axis=-1>(c) }}""")
    keep = np.array([[True, False, True, False], [False] * 4])
    (y,) = run_onnx(to_fp16(model), {"x": _noise(2, 4), "keep": keep})
    assert np.isfinite(y).all()
    assert (y[0, [1, 3]] == 0).all()
    assert y.sum(-1) == pytest.approx(1, abs=2e-3)


def test_minus_infinity_stays_what_it_is(run_onnx: Run) -> None:
    model = _parsed("""g (float[1,3] x, bool[1,3] keep) => (float[1,3] y) {
        out = Constant<value = float {-inf}>()  a = Where(keep, x, out)  y = Softmax<axis=-1>(a) }""")
    (y,) = run_onnx(to_fp16(model), {"x": _noise(1, 3), "keep": np.array([[True, False, True]])})
    assert y[0, 1] == 0
    assert y.sum() == pytest.approx(1, abs=2e-3)


def test_a_large_quantity_keeps_its_consumer_in_fp32(run_onnx: Run) -> None:
    model = _parsed(
        "g (float[1,3] x) => (float[1,3] y) <float big = {100000}> { [div] d = Div(x, big)  y = Mul(d, big) }"
    )
    typed = to_fp16(model)
    x = _noise(1, 3)
    assert run_onnx(typed, {"x": x})[0] == pytest.approx(x, rel=1e-5)
    assert _types(typed)["div"] == FLOAT


def test_numbers_made_of_integers_and_choices_stay_exact(run_onnx: Run) -> None:
    model = _parsed("""g (int64[1,5] ids, float[1,5] x) => (float[1,5] y, int64[1,2] at) <int64[1] k = {2}> {
        f = Cast<to = 1>(ids)  r = Sqrt(f)  q = Mul(r, r)  s = Add(x, q)  best, at = TopK(s, k)  y = Identity(q) }""")
    ids = np.array([[5, 60000, 60001, 3, 1]])
    y, at = run_onnx(
        to_fp16(model, keep_fp32=lambda node: node.op_type in {"Mul", "Add"}),
        {"ids": ids, "x": np.zeros((1, 5), np.float32)},
    )
    assert at.tolist() == [[2, 1]]
    assert y == pytest.approx(ids, rel=1e-6)


def test_nodes_without_names_and_constants_as_nodes(run_onnx: Run) -> None:
    model = _parsed("""g (float[1,4] x) => (float[1,4] y, float[1,4] z) {
        c = Constant<value = float {2}>()  y = Mul(x, c)  e = Exp(x)  l = Exp(x)  z = Sub(e, l) }""")
    y, z = run_onnx(to_fp16(model), {"x": _noise(1, 4)})
    assert y == pytest.approx(2 * _noise(1, 4), abs=4e-3)
    assert (z == 0).all()


def test_an_input_that_is_used_in_fp32_only_is_not_rounded(run_onnx: Run) -> None:
    model = _parsed("g (float[1,4] x) => (float[1,4] y) { y = Exp(x) }")
    x = _noise(1, 4)
    assert run_onnx(to_fp16(model), {"x": x})[0].tolist() == run_onnx(model, {"x": x})[0].tolist()


def test_a_restored_output_is_computed_in_the_streams_type() -> None:
    model = _parsed(
        'g (float[1,4,4] m, float[1,4,8] x) => (float[1,4,8] y) { ["edgeprune/restore/out"] y = MatMul(m, x) }'
    )
    assert not fp32_nodes(model)


def test_a_loop_that_reads_from_outside_is_declined() -> None:
    model = _parsed("""g (float[4] x, int64 n, bool go) => (float[4] y) {
        y = Loop(n, go, x) <body = b (int64 i, bool c, float[4] a) => (bool d, float[4] s) {
            d = Identity(c)  s = Add(a, x) }> }""")
    with pytest.raises(TargetError, match="reads values from outside its subgraph") as caught:
        to_fp16(model)
    assert caught.value.hint == "use `--precision fp32`"


def test_weights_beside_the_file_are_converted_too(
    make_encoder: Callable[..., ir.Model], run_onnx: Run, tmp_path: Path
) -> None:
    model = make_encoder(width=64)
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    feeds = {"x": _noise(1, 17, 64)}
    assert (
        run_onnx(to_fp16(ir.load(tmp_path / "m.onnx")), feeds)[0].tolist()
        == run_onnx(to_fp16(model), feeds)[0].tolist()
    )


def test_an_ill_typed_source_is_not_called_our_bug() -> None:
    model = _parsed(
        "g (float[1,4] x, bool[1,4] b) => (float[1,4] y) { i = Where(b, x, x)  y = GatherElements<axis=1>(x, i) }"
    )
    with pytest.raises(TargetError, match="the source graph is not well typed"):
        to_fp16(model)


def test_an_operator_without_a_half_form_stays_fp32(run_onnx: Run) -> None:
    model = _parsed("""g (float[8] x) => (uint8[8] y, float s) {
        [double] d = Add(x, x)  [at] y, s, z = DynamicQuantizeLinear(d) }""")
    typed = to_fp16(model)
    assert _types(typed)["double"] == HALF
    (y, _), (half, _) = run_onnx(model, {"x": _noise(8)}), run_onnx(typed, {"x": _noise(8)})
    assert (
        np.abs(y.astype(int) - half.astype(int)).max() <= 1
    )  # one step of 1/255 of the range, rounded to 2^-11 before
