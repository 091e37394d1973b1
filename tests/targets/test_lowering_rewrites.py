"""Each rewrite against ONNX's own meaning of what it replaces: its reference evaluator, or ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from edgeprune.core.invariants import check_invariants
from edgeprune_targets.lowering import query_scale
from edgeprune_targets.lowering.einsum import spell_out_einsum, spelled_out
from edgeprune_targets.lowering.gelu import decompose_gelu
from edgeprune_targets.lowering.group_norm import decompose_group_norm
from edgeprune_targets.lowering.key_transpose import straighten_keys
from edgeprune_targets.lowering.layer_norm import decompose_layer_norm
from edgeprune_targets.lowering.opset import to_common_opset
from edgeprune_targets.lowering.query_scale import scale_queries
from edgeprune_targets.lowering.rms_norm import decompose_rms_norm
from edgeprune_targets.lowering.scatter import decompose_scatter
from edgeprune_targets.lowering.swish import decompose_swish
from edgeprune_targets.lowering.topk_floats import sort_as_floats

Rewrite = Callable[[ir.Model], int]
# Weights as initializers, three names: w and b of 8 channels, v and c of 2 groups.
WEIGHTS = "<float[8] w={1,2,-1,0.5,1,3,0.1,1}, float[8] b={0,1,0,2,0,0,-1,0}, float[2] v={2,3}, float[2] c={1,0}>"


def parsed(body: str, signature: str, opset: int) -> ir.Model:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> g {signature} {WEIGHTS} {{ {body} }}'
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def agree(model: ir.Model, rewrite: Rewrite, *, done: int = 1, exact: bool = False) -> ir.Model:
    """Rewrite, and hold the result against the original on noise; the rewritten graph."""
    random = np.random.default_rng(2)
    feed = {}
    for value in model.graph.inputs:
        shape, kind = value.shape.numpy(), value.dtype.numpy()
        drawn = random.standard_normal(shape) if value.dtype.is_floating_point() else random.integers(-3, 3, shape)
        feed[value.name] = drawn.astype(kind)
    copy = model.clone()
    assert rewrite(copy) == done
    check_invariants(copy, after="a rewrite")
    onnx.checker.check_model(ir.to_proto(copy), full_check=True)
    before, after = (ReferenceEvaluator(ir.to_proto(each)).run(None, feed) for each in (model, copy))
    for one, two in zip(before, after, strict=True):
        if exact:
            assert one.tolist() == two.tolist()
        assert two == pytest.approx(one, rel=2e-5, abs=2e-6)  # a dozen roundings of 2^-24 in another order
    return copy


NORMS: dict[str, tuple[str, str, int, Rewrite]] = {
    "layer norm": (
        "y = LayerNormalization<axis=-1, epsilon=0.01>(x, w, b)", "(float[2,3,8] x) => (float[2,3,8] y)", 17,
        decompose_layer_norm,
    ),
    "layer norm without bias": (
        "y = LayerNormalization(x, w)", "(float[2,3,8] x) => (float[2,3,8] y)", 17, decompose_layer_norm
    ),
    "layer norm over two axes, axes as an input": (
        "y = LayerNormalization<axis=1>(x, s)", "(float[2,3,8] x, float[3,8] s) => (float[2,3,8] y)", 20,
        decompose_layer_norm,
    ),
    "rms norm": (
        "y = RMSNormalization<epsilon=0.1>(x, w)", "(float[2,3,8] x) => (float[2,3,8] y)", 23, decompose_rms_norm
    ),
    "group norm by group": (
        "y = GroupNormalization<num_groups=2>(x, v, c)", "(float[2,8,3,3] x) => (float[2,8,3,3] y)", 18,
        decompose_group_norm,
    ),
    "group norm by channel": (
        "y = GroupNormalization<num_groups=2>(x, w, b)", "(float[2,8,5] x) => (float[2,8,5] y)", 21,
        decompose_group_norm,
    ),
    "gelu": ("y = Gelu(x)", "(float[40] x) => (float[40] y)", 20, decompose_gelu),
    "gelu by tanh": ('y = Gelu<approximate="tanh">(x)', "(float[40] x) => (float[40] y)", 20, decompose_gelu),
    "swish": ("y = Swish(x)", "(float[40] x) => (float[40] y)", 24, decompose_swish),
    "swish with alpha": ("y = Swish<alpha=1.7>(x)", "(float[40] x) => (float[40] y)", 24, decompose_swish),
}  # fmt: skip


@pytest.mark.parametrize("case", NORMS)
def test_a_definition_is_what_the_operator_computes(case: str) -> None:
    body, signature, opset, rewrite = NORMS[case]
    made = agree(parsed(body, signature, opset), rewrite)
    assert [value.name for value in made.graph.outputs] == ["y"]


def test_a_norm_whose_mean_is_read_is_left_alone() -> None:
    model = parsed("y, m = LayerNormalization(x, w)", "(float[2,8] x) => (float[2,8] y, float[2,1] m)", 17)
    agree(model, decompose_layer_norm, done=0)


def test_a_cube_beyond_fp16_does_not_spoil_gelu(run_onnx: Callable[..., list[np.ndarray]]) -> None:
    model = parsed('y = Gelu<approximate="tanh">(x)', "(float16[4] x) => (float16[4] y)", 20)
    decompose_gelu(model)
    (y,) = run_onnx(model, {"x": np.array([-60, -45, 45, 60], np.float16)})
    assert y.tolist() == [0, 0, 45, 60]


SCATTERS = {
    "elements along the last axis": ("ScatterElements<axis=-1, reduction=KIND>(x, i, u)", "(2,6)", "(2,4)", "(2,4)"),
    "elements along the middle": ("ScatterElements<axis=1, reduction=KIND>(x, i, u)", "(2,5,3)", "(2,4,3)", "(2,4,3)"),
    "slices": ("ScatterND<reduction=KIND>(x, i, u)", "(5,3)", "(4,1)", "(4,3)"),
    "slices two deep": ("ScatterND<reduction=KIND>(x, i, u)", "(4,5,3)", "(2,3,2)", "(2,3,3)"),
}


@pytest.mark.parametrize("kind", ["add", "max", "min"])
@pytest.mark.parametrize("case", SCATTERS)
def test_a_scatter_reduces_by_a_one_hot_matrix(case: str, kind: str) -> None:
    body, data, index, update = (part.replace("(", "[").replace(")", "]") for part in SCATTERS[case])
    body = SCATTERS[case][0].replace("KIND", f'"{kind}"')
    signature = f"(float{data} x, int64{index} i, float{update} u) => (float{data} y)"
    made = agree(parsed(f"y = {body}", signature, 18), decompose_scatter)
    assert not [node for node in made.graph if node.op_type.startswith("Scatter")]


def test_a_scatter_without_reduction_or_of_products_is_left_alone() -> None:
    for kind in ("none", "mul"):
        body = f'y = ScatterElements<axis=0, reduction="{kind}">(x, i, u)'
        agree(parsed(body, "(float[6] x, int64[1] i, float[1] u) => (float[6] y)", 18), decompose_scatter, done=0)


@pytest.mark.parametrize(
    ("equation", "shapes", "plain"),
    [
        ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)], "aij,ajk->aik"),
        ("...ij,jk->...ik", [(2, 6, 3, 4), (4, 5)], "abij,jk->abik"),
        ("...i,...i", [(2, 3), (2, 3)], "ai,ai->a"),
        ("i...,i...->...", [(3,), (3,)], "i,i->"),
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)], "bij,bjk->bik"),
    ],
)
def test_an_ellipsis_gets_letters(equation: str, shapes: list[tuple[int, ...]], plain: str) -> None:
    assert spelled_out(equation, shapes) == plain
    one, two = (np.random.default_rng(1).standard_normal(shape) for shape in shapes)
    assert np.einsum(plain, one, two) == pytest.approx(np.einsum(equation, one, two))


def test_an_ellipsis_that_broadcasts_is_left_alone() -> None:
    assert spelled_out("...ij,...jk->...ik", [(2, 3, 4), (1, 4, 5)]) is None
    body = 'y = Einsum<equation="...ij,...jk->...ik">(x, z)'
    agree(parsed(body, "(float[2,3,4] x, float[1,4,5] z) => (float[2,3,5] y)", 17), spell_out_einsum, done=0)


ATTENTION = """a = MatMul(q, k) s = SCALE(a, e) m = Add(s, z) p = Softmax<axis=-1>(m) y = MatMul(p, x)"""
SIGNATURE = "(float[2,3,5,4] q, float[2,3,4,5] k, float[2,3,5,4] x, float[5,5] z) => (float[2,3,5,4] y)"


@pytest.mark.parametrize(("how", "number", "exact"), [("Mul", 0.5, True), ("Div", 2.0, True), ("Mul", 0.3, False)])
def test_the_scale_moves_to_the_query(how: str, number: float, exact: bool) -> None:
    text = ATTENTION.replace("SCALE", how)
    model = parsed(f"e = Constant<value = float {{{number}}}>() {text}", SIGNATURE, 17)
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    made = agree(model, scale_queries, exact=exact)
    product = next(node for node in made.graph if node.op_type == "MatMul")
    assert product.inputs[0].producer().op_type == how


def test_a_scale_that_others_read_past_stays() -> None:
    text = ATTENTION.replace("SCALE", "Mul").replace("p = Soft", "o = Identity(a) p = Soft")
    signature = SIGNATURE.replace("=> (", "=> (float[2,3,5,5] o, ")
    model = parsed("e = Identity(w8) ".replace("w8", "v") + text.replace("(a, e)", "(a, a)"), signature, 17)
    agree(model, scale_queries, done=0)
    assert query_scale.scale_queries(model) == 0


def test_a_detour_of_the_keys_is_one_transpose() -> None:
    shapes = "s = Constant<value = int64[3] {6,5,4}>() t = Constant<value = int64[4] {2,3,4,5}>()"
    body = f"{shapes} a = Reshape(x, s) d = Transpose<perm=[0,2,1]>(a) y = Reshape(d, t)"
    made = agree(parsed(body, "(float[2,3,5,4] x) => (float[2,3,4,5] y)", 17), straighten_keys, exact=True)
    turned = [node for node in made.graph if node.op_type == "Transpose"]
    assert [list(node.attributes["perm"].as_ints()) for node in turned] == [[0, 1, 3, 2]]


def test_another_detour_is_none() -> None:
    shapes = "s = Constant<value = int64[3] {6,4,5}>() t = Constant<value = int64[4] {3,2,5,4}>()"
    body = f"{shapes} a = Reshape(x, s) d = Transpose<perm=[0,2,1]>(a) y = Reshape(d, t)"
    agree(parsed(body, "(float[2,3,5,4] x) => (float[3,2,5,4] y)", 17), straighten_keys, done=0)


def test_whole_numbers_are_sorted_as_floats() -> None:
    body = "n = Constant<value = int64[1] {3}>() y, i = TopK<axis=-1, largest=0>(x, n) z = Identity(i)"
    model = parsed(body, "(int64[2,6] x) => (int64[2,3] y, int64[2,3] z)", 17)
    model.graph.inputs[0].shape = ir.Shape([2, 6])
    copy = model.clone()
    assert sort_as_floats(copy) == 1
    x = np.array([[5, 3, 2**23 + 1, 2**23, 7, 1], [9, 8, 7, 6, 5, 4]])
    before, after = (ReferenceEvaluator(ir.to_proto(each)).run(None, {"x": x}) for each in (model, copy))
    assert [part.tolist() for part in after] == [part.tolist() for part in before]
    assert {node.inputs[0].dtype.name for node in copy.graph if node.op_type == "TopK"} == {"FLOAT"}


AXES = "a = Constant<value = int64[1] {1}>()"
PADS = (
    "p = Constant<value = int64[2] {1,2}>() o = Constant<value = float {0.5}>() a = Constant<value = int64[1] {-1}>()"
)
OPSETS = {
    "axes of a reduction": (f"{AXES} y = ReduceMean(x, a)", "(float[2,6] x) => (float[2,1] y)", 18),
    "a reduction of nothing": (
        "a = Constant<value = int64[0] {}>() y = ReduceMax<noop_with_empty_axes=1>(x, a)",
        "(float[2,6] x) => (float[2,6] y)", 20,
    ),
    "a split by count": (
        "y, z = Split<axis=1, num_outputs=2>(x)", "(float[2,5] x) => (float[2,3] y, float[2,2] z)", 18
    ),
    "padding of one axis": (f"{PADS} y = Pad(x, p, o, a)", "(float[2,5] x) => (float[2,8] y)", 18),
    "a cast that saturates": ("y = Cast<to=7, saturate=1>(x)", "(float[2,5] x) => (int64[2,5] y)", 19),
    "a reshape that takes zeros": (
        "s = Constant<value = int64[2] {5,2}>() y = Reshape<allowzero=1>(x, s)", "(float[2,5] x) => (float[5,2] y)", 21,
    ),
    "an older one": ("y = Add(x, x)", "(float[2,5] x) => (float[2,5] y)", 13),
}  # fmt: skip


@pytest.mark.parametrize("case", OPSETS)
def test_opset_17_says_the_same(case: str) -> None:
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    model = parsed(*OPSETS[case])
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    done = 1 if case == "an older one" else 2
    made = agree(model, to_common_opset, done=done, exact=True)
    assert (made.opset_imports[""], made.ir_version) == (17, 8)


def test_a_graph_that_opset_17_cannot_say_keeps_its_own() -> None:
    for body, signature, opset in (
        ("y = Gelu(x)", "(float[8] x) => (float[8] y)", 20),
        ("y = BitwiseAnd(x, x)", "(int64[8] x) => (int64[8] y)", 18),
        ("p = Constant<value = int64[2] {1,2}>() y = Pad<mode=\"wrap\">(x, p)", "(float[8] x) => (float[11] y)", 19),
    ):  # fmt: skip
        made = agree(parsed(body, signature, opset), to_common_opset, done=0)
        assert made.opset_imports[""] == opset
