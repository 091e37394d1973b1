"""Which runtime a target has, and what its parser takes: the table against what NVIDIA documents and what builds."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from support.rtx import build

from edgeprune_targets.lacks import findings
from edgeprune_targets.operators import numbers_of, operators
from edgeprune_targets.profiles import load_target, target_names
from edgeprune_targets.runtimes import RUNTIMES, runtime_for

BY_NAME = {runtime.name: runtime for runtime in RUNTIMES}


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("8.5", "tensorrt-8.5"), ("8.5.2", "tensorrt-8.5"), ("8.6.1", "tensorrt-8.6"), ("10.3", "tensorrt-10.3"),
        ("10.13.3", "tensorrt-10.3"), ("10.16.2", "tensorrt-10.16"), ("11", "tensorrt-11"), ("11.5", "tensorrt-11"),
    ],
)  # fmt: skip
def test_the_largest_known_version_that_is_not_above(version: str, name: str) -> None:
    assert runtime_for(load_target("rtx-2080-ti"), version).name == name


@pytest.mark.parametrize(("target", "name"), [("jetson-orin", "tensorrt-11"), ("rtx-4090", "tensorrt-11")])
def test_a_major_version_is_the_one_that_the_device_can_have(target: str, name: str) -> None:
    assert runtime_for(load_target(target), "11").name == name


def test_the_profile_decides_where_nothing_is_said() -> None:
    assert runtime_for(load_target("jetson-orin")).name == "tensorrt-10.3"
    assert runtime_for(load_target("rtx-4090")).name == "tensorrt-rtx-1"
    assert runtime_for(load_target("rtx-4090"), builder="tensorrt").name == "tensorrt-11"
    assert runtime_for(load_target("rtx-4090"), "10.3").name == "tensorrt-10.3"
    assert runtime_for(load_target("rtx-4090"), "10.3", "tensorrt-rtx").name == "tensorrt-rtx-1"


def test_every_target_that_can_be_built_for_has_a_runtime() -> None:
    for target in map(load_target, target_names()):
        if target.buildable:
            assert runtime_for(target) in RUNTIMES


def test_titles_are_what_people_write() -> None:
    assert [runtime.title for runtime in RUNTIMES][::5] == ["TensorRT 8.5", "TensorRT-RTX 1"]


@pytest.mark.parametrize(
    ("operator", "first"),
    [
        ("LayerNormalization", "tensorrt-8.6"), ("GroupNormalization", "tensorrt-8.6"), ("Gelu", "tensorrt-10.3"),
        ("Attention", "tensorrt-10.16"), ("RMSNormalization", "tensorrt-10.16"), ("Swish", "tensorrt-11"),
        ("MatMul", "tensorrt-8.5"), ("Compress", None), ("DynamicQuantizeLinear", None),
    ],
)  # fmt: skip
def test_an_operator_is_known_from_one_version_on(operator: str, first: str | None) -> None:
    has = [runtime.name for runtime in RUNTIMES if operators()[operator].types_in(runtime)]
    order = [runtime.name for runtime in RUNTIMES]
    assert has == (order[order.index(first) :] if first else [])


def test_types_grow_with_versions() -> None:
    topk = operators()["TopK"]
    assert topk.types_in(BY_NAME["tensorrt-8.5"]) == {"fp32", "fp16"}
    assert topk.types_in(BY_NAME["tensorrt-8.6"]) == {"fp32", "fp16", "int32"}
    assert "int64" in topk.types_in(BY_NAME["tensorrt-10.3"])
    assert not operators()["NonZero"].types_in(BY_NAME["tensorrt-rtx-1"])
    assert operators()["NonZero"].types_in(BY_NAME["tensorrt-11"])


def test_the_table_is_whole() -> None:
    table = operators()
    assert len(table) > 170  # operators.md of 8.5 has 147 and that of 10.15 adds three dozen
    for operator in table.values():
        assert operator.source
        versions = [version for version in operator.types if version != "tensorrt-rtx"]
        assert versions == sorted(versions, key=numbers_of)
    known = {schema.name for schema in onnx.defs.get_all_schemas()} | {
        "ImageScaler",
        "ParametricSoftplus",
        "ScaledTanh",
    }
    assert sorted(table.keys() - known) == []


def test_every_fact_of_a_runtime_that_is_no_default_has_a_source() -> None:
    for runtime in RUNTIMES:
        assert {"opset", "typing"} <= runtime.sources.keys()


# One graph with many operators, so that one build answers for all of them.
TAKEN = """g (float[1,2,8,16] x, int64[1,8] i) => (float[1,2,8,16] y, int64[1,8] s, int64[1,8] t, float[1,8,16] e)
    <float[16] w={1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}, int64[1] k={8}, int64 axis={1}, int64[1] hot={9},
     float[2] off_on={0,1}, float[2] group={1,1}> {
    a = LayerNormalization<axis=-1>(x, w, w)  b = Gelu(a)  c = RMSNormalization(b, w)  d = Swish(c)
    f = GroupNormalization<num_groups=2>(d, group, group)  g = Erf(f)  h = Softmax<axis=-1>(g)  j = Mod(i, k)
    l, s = TopK<axis=-1, largest=0>(j, k)  t = CumSum(l, axis)  m = OneHot<axis=-1>(l, hot, off_on)
    n = Einsum<equation="...ij,...kj->...ik">(m, m)  o = Squeeze(h)  q = Slice(o, zero, one, zero)  r = Squeeze(q, zero)
    u = Unsqueeze(r, zero)  e = MatMul(n, u)  p = HardSwish(h)  y = Add(p, x) }"""


@pytest.mark.usefixtures("rtx")
def test_tensorrt_rtx_takes_what_the_table_says_it_does(tmp_path: Path) -> None:
    text = TAKEN.replace("float[2] group={1,1}", "float[2] group={1,1}, int64[1] zero={0}, int64[1] one={1}")
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 24]> {text}'))
    target = load_target("rtx-4090")
    assert [str(f) for f in findings(model, RUNTIMES[-1], target) if f.severity == "error"] == []
    (result,) = build(ir.to_proto(model).SerializeToString(), [target], tmp_path)
    assert result.error is None


REFUSED = {
    "Compress": "g (float[8] x, bool[8] b) => (float[n] y) { [at] y = Compress(x, b) }",
    "Unique": "g (float[8] x) => (float[n] y) { [at] y = Unique(x) }",
    "BitwiseAnd": "g (int32[8] x) => (int32[8] y) { [at] y = BitwiseAnd(x, x) }",
    "DynamicQuantizeLinear": "g (float[8] x) => (uint8[8] y, float s, uint8 z) "
    "{ [at] y, s, z = DynamicQuantizeLinear(x) }",
    "MatMulInteger": "g (int8[8,8] x) => (int32[8,8] y) { [at] y = MatMulInteger(x, x) }",
    "zero point": "g (float[8] x) => (float[8] y) <float s={0.1}, int8 z={3}> "
    "{ [at] q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
    "ScatterND with a reduction": "g (float[4,8] x, int64[2,1] i, float[2,8] u) => (float[4,8] y) "
    '{ [at] y = ScatterND<reduction="add">(x, i, u) }',
    "one output only": "g (float[2,8] x, float[8] w) => (float[2,8] y, float[2,1] m) "
    "{ [at] y, m = LayerNormalization(x, w) }",
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_it_refuses_is_said(says: str) -> None:
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {REFUSED[says]}'))
    found = findings(model, RUNTIMES[-1], load_target("rtx-4090"))
    assert any(says in finding.reason and finding.severity == "error" for finding in found), found


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("says", REFUSED)
def test_tensorrt_rtx_does_refuse_it(says: str, tmp_path: Path) -> None:
    data = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {REFUSED[says]}').SerializeToString()
    (result,) = build(data, [load_target("rtx-4090")], tmp_path)
    assert not result.built
