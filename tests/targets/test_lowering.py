"""Every lowering computes what the canonical graph computes, on every runtime, for every kind of cut and spelling."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.kinds import ATTENTION
from support.rtx import build
from support.surgery import canonical, reduce
from support.tiny_torch import Spelling, example

from edgeprune.compiler.proving.lowering_proof import FP32_TOLERANCE, noise_for, prove_lowering
from edgeprune.core.errors import ModelError
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_targets.attentions import count_attentions
from edgeprune_targets.lacks import findings
from edgeprune_targets.lowering import Lowered, lower
from edgeprune_targets.profiles import load_target
from edgeprune_targets.runtimes import RUNTIMES, Runtime, runtime_for

PIXELS = Spelling()
ONCE = {"fopru-row"}  # keeps whole rows, of which nothing is left after a cut
CUTS = [name for name in ATTENTION if name != "keep-all"]
EVERY = pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
WRITTEN = (*RUNTIMES[:3], RUNTIMES[4])  # 10.16 gets the graph of 10.3, and TensorRT-RTX that of 11
DISTINCT = pytest.mark.parametrize("runtime", WRITTEN, ids=lambda runtime: runtime.name)
SPELLINGS = {
    "rope": Spelling(attention="separate", rope=True),
    "grouped queries, causal": Spelling(text=True, prefix=1, attention="grouped", head="tokens"),
    "mask as an input": Spelling(text=True, attention="eager"),
    "torch's own": Spelling(attention="mha", norm="post"),
    "packed, relative": Spelling(attention="packed", relative=True),
}
# Seen on a machine that has none of the runtimes; which of them a graph is for changes nothing in how it is proved.
ORIN = "jetson-orin"


@lru_cache
def digits(project: Path) -> ir.Model:
    model = ir.load(project / "demo" / "digits_vit.onnx")
    Canonicalize(batch=2).apply(model)
    return model


@lru_cache
def cut(strategy: str) -> ir.Model:
    model = canonical(PIXELS, 2)
    reduce(model, {0: 20} if strategy in ONCE else {0: 20, 1: 15}, strategy)
    return model


def lowered(model: ir.Model, runtime: Runtime, precision: str = "fp32", **options: bool) -> Lowered:
    return lower(model, runtime, load_target(ORIN), precision, **options)


def written(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


@EVERY
def test_the_digits_are_equal_in_both_precisions(project: Path, runtime: Runtime) -> None:
    model = digits(project)
    feed = {"image": np.load(project / "demo" / "digits_test.npz")["image"][:2]}
    for precision in ("fp32", "fp16"):
        proof = prove_lowering(model, lowered(model, runtime, precision), feed, 1)
        assert proof.passed, (precision, proof)
        typed = runtime.typing == "strong" and precision == "fp16"
        assert (proof.tolerance > FP32_TOLERANCE) == typed


@pytest.mark.parametrize("dynamo", [False, True])
def test_in_fp32_newer_versions_get_the_graph_of_the_one_before(dynamo: bool) -> None:
    model = canonical(PIXELS, 2, dynamo=dynamo)
    made = {runtime.name: written(lowered(model, runtime).model) for runtime in RUNTIMES}
    assert made["tensorrt-10.16"] == made["tensorrt-10.3"]
    assert made["tensorrt-rtx-1"] == made["tensorrt-11"]


DETOUR = """<ir_version: 8, opset_import: ["": 17]> g (float[2,3,5,4] k) => (float[2,3,4,5] y)
    <int64[3] s={6,5,4}, int64[4] t={2,3,4,5}> {
    a = Reshape(k, s)  b = Transpose<perm=[0,2,1]>(a)  y = Reshape(b, t) }"""


@EVERY
def test_keys_are_straightened_for_old_matchers_only(runtime: Runtime) -> None:
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(DETOUR), data_prop=True)
    made = lowered(ir.from_proto(proto), runtime)
    assert ("key-transpose" in made.changes) == runtime.old_matcher == (runtime.version not in {"11", "1"})


@DISTINCT
@pytest.mark.parametrize("strategy", CUTS)
def test_every_cut_is_equal(runtime: Runtime, strategy: str) -> None:
    proof = prove_lowering(cut(strategy), lowered(cut(strategy), runtime), example(PIXELS, 2), 1)
    assert proof.passed, proof


@DISTINCT
@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=list(SPELLINGS))
def test_every_spelling_is_equal(runtime: Runtime, spelling: Spelling) -> None:
    model = canonical(spelling, 2)
    proof = prove_lowering(model, lowered(model, runtime), example(spelling, 2), 1)
    assert proof.passed, proof


@DISTINCT
def test_a_younger_export_is_equal(runtime: Runtime) -> None:
    model = canonical(PIXELS, 2, dynamo=True)
    made = lowered(model, runtime)
    assert made.model.opset_imports[""] == 17
    assert "Gelu" not in {node.op_type for node in made.model.graph}
    assert prove_lowering(model, made, example(PIXELS, 2), 1).passed


@EVERY
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_lowering_is_pure_and_keeps_the_interface(runtime: Runtime, precision: str) -> None:
    model = cut("prune-merge").clone()
    before = written(model)
    first, second = (lowered(model, runtime, precision) for _ in range(2))
    assert written(model) == before
    assert written(first.model) == written(second.model)
    assert first.changes == second.changes
    for side in ("inputs", "outputs"):
        ours, theirs = ([(v.name, v.dtype, v.shape) for v in getattr(m.graph, side)] for m in (first.model, model))
        assert ours == theirs


@DISTINCT
def test_lowering_twice_changes_nothing_more(runtime: Runtime) -> None:
    once = lowered(canonical(PIXELS, 2, dynamo=True), runtime)
    twice = lowered(once.model, runtime)
    assert twice.changes == {}
    assert written(twice.model) == written(once.model)


@pytest.mark.parametrize("runtime", [RUNTIMES[0], RUNTIMES[2], RUNTIMES[5]], ids=lambda runtime: runtime.name)
@pytest.mark.parametrize("strategy", CUTS)
def test_nothing_known_stands_against_what_is_lowered(runtime: Runtime, strategy: str) -> None:
    target = load_target("rtx-4090" if runtime.family == "tensorrt-rtx" else ORIN)
    made = lower(cut(strategy), runtime, target, "fp16")
    found = findings(made.model, runtime, target, precision="fp16")
    assert {finding.severity for finding in found} <= {"warning", "note"}
    said = [finding.reason for finding in found if finding.severity == "warning"]
    assert all(text.startswith("attention is not fused") for text in said)  # heads of 8 are below every kernel's
    reads = any("reads its scores a second time" in text for text in said)
    assert reads == (strategy in {"mean-attention", "zero-tprune"} and runtime.version != "8.5")


def test_weak_typing_keeps_the_graph_in_fp32_and_names_what_must_stay() -> None:
    runtime = RUNTIMES[0]
    made = lowered(cut("cls-topk"), runtime, "fp16")
    assert runtime.typing == "weak"
    assert not [v for node in made.model.graph for v in node.outputs if v.dtype == ir.DataType.FLOAT16]
    named = {node.name: node.op_type for node in made.model.graph if node.name in made.fp32_layers}
    assert len(named) == len(made.fp32_layers)
    assert {"TopK", "ReduceMean", "Pow", "Sqrt", "Div"} <= set(named.values())
    assert lowered(cut("cls-topk"), runtime, "fp32").fp32_layers == ()


def test_names_that_would_break_the_list_of_trtexec_are_changed_and_stay_apart() -> None:
    model = cut("cls-topk").clone()
    top, *others = (node for node in model.graph if node.op_type in {"TopK", "LayerNormalization", "Softmax"})
    top.name = "a:b"
    others[0].name, others[1].name = "a,b", "a_b"
    made = lowered(model, RUNTIMES[0], "fp16")
    names = [node.name for node in made.model.graph]
    assert len(set(names)) == len(names)
    assert set(made.fp32_layers) <= set(names)
    assert not set("".join(names)) & set(",:*\n")
    assert {node.name for node in lowered(model, RUNTIMES[2], "fp16").model.graph} >= {"a:b", "a_b"}


def test_layer_normalization_is_spelled_out_for_the_one_parser_without_it() -> None:
    for runtime in RUNTIMES:
        kinds = {node.op_type for node in lowered(cut("cls-topk"), runtime).model.graph}
        assert ("LayerNormalization" in kinds) == (runtime.name != "tensorrt-8.5")


@DISTINCT
@pytest.mark.parametrize("strategy", ["prune-merge", "zero-tprune"])  # which reads the probabilities itself
def test_unfused_attention_keeps_the_numbers(runtime: Runtime, strategy: str) -> None:
    model = cut(strategy)
    made = lowered(model, runtime, fused_attention=False)
    assert made.changes["unfused-attention"] == count_attentions(model) == 3
    assert prove_lowering(model, made, example(PIXELS, 2), 1).passed
    for finding in findings(made.model, runtime, load_target(ORIN), precision="fp16"):
        if "fused" in finding.reason and runtime.name != "tensorrt-8.5":
            assert "queries have head size 8, values 16" in finding.reason or "a second time" in finding.reason


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("how", ["", "topk", "merge"])
def test_tensorrt_rtx_fuses_all_or_none(make_encoder: Callable[..., ir.Model], tmp_path: Path, how: str) -> None:
    target = load_target("rtx-3090")
    for fused in (True, False):
        model = make_encoder(cut=how, width=64)
        made = lower(model, runtime_for(target), target, "fp16", fused_attention=fused)
        (result,) = build(ir.to_proto(made.model).SerializeToString(), [target], tmp_path)
        assert result.error is None
        assert result.fused_attentions == (2 if fused else 0)


def test_a_wrong_lowering_is_found_out() -> None:
    model = canonical(PIXELS, 2)
    made = lowered(model, RUNTIMES[0])
    epsilon = next(node for node in made.model.graph if node.op_type == "Sqrt").inputs[0]
    assert epsilon is not None
    added = epsilon.producer()
    assert added is not None
    added.replace_input_with(1, made.model.graph.initializers[str(added.inputs[1].name)])
    wrong = ir.tensor(np.float32(0.1), name="wrong")
    made.model.graph.initializers[str(added.inputs[1].name)].const_value = wrong
    assert not prove_lowering(model, made, example(PIXELS, 2), 1).passed


def test_noise_fits_every_input() -> None:
    feed = noise_for(canonical(SPELLINGS["mask as an input"], 2), 0)
    assert {name: (array.shape, array.dtype.name) for name, array in feed.items()} == {
        "x": ((2, 15), "int64"),
        "mask": ((2, 15), "int64"),
    }
    assert set(np.unique(feed["x"])) <= {0, 1}


@pytest.mark.zoo
@pytest.mark.slow
def test_real_exports_are_equal(zoo: Path) -> None:
    """One small export of each architecture: RoPE, RMSNorm, grouped queries, windows, masks, several opsets."""
    seen = 0
    for path in sorted(zoo.glob("*__[DL]*sf.onnx")):
        if path.stat().st_size > 20 * 2**20:
            continue
        model = ir.load(path)
        try:
            Canonicalize(batch=1).apply(model)
        except ModelError:  # its number of tokens is open
            continue
        feed = noise_for(model, 0)
        for runtime in WRITTEN:
            proof = prove_lowering(model, lowered(model, runtime), feed, 1)
            assert proof.passed, (path.name, proof)
        seen += 1
    assert seen > 0
