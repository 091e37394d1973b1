"""Real builds with TensorRT-RTX, which needs no GPU; and what comes back when there is nothing to build with."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.rtx import build

from edgeprune_targets.attentions import count_attentions, is_attention
from edgeprune_targets.builders.manifest import read_manifest
from edgeprune_targets.builders.plan_text import count_fused_attentions, kernel_names, launches, unfused
from edgeprune_targets.builders.tensorrt_rtx import RtxBuilder
from edgeprune_targets.precision import to_fp16
from edgeprune_targets.profiles import load_target


def _parse(text: str) -> bytes:
    return bytes(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}').SerializeToString())


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("cut", ["", "topk", "merge"])
def test_every_attention_is_fused_with_a_score_beside_it(
    make_encoder: Callable[..., ir.Model], tmp_path: Path, cut: str
) -> None:
    model = to_fp16(make_encoder(cut=cut, blocks=3))
    data = ir.to_proto(model).SerializeToString()
    (result,) = build(data, [load_target("rtx-3090")], tmp_path, attentions=count_attentions(model))
    assert result.error is None
    assert (result.attentions, result.fused_attentions) == (3, 3)


@pytest.mark.usefixtures("rtx")
def test_one_engine_a_capability_with_a_manifest(make_encoder: Callable[..., ir.Model], tmp_path: Path) -> None:
    data = ir.to_proto(to_fp16(make_encoder(blocks=1))).SerializeToString()
    targets = [load_target(name) for name in ("rtx-4090", "rtx-4060", "jetson-orin")]
    first, second, jetson = build(data, targets, tmp_path / "engine", name="tiny", attentions=1)
    assert (first.target, second.target) == ("rtx-4090", "rtx-4060")
    assert first.path == second.path == str(tmp_path / "engine" / "tiny.sm89.engine")
    assert not jetson.built
    assert jetson.error is not None
    assert jetson.error.startswith("TensorRT-RTX does not build for compute capability 8.7")
    names = {path.name for path in (tmp_path / "engine").iterdir()}
    assert names == {"tiny.sm89.engine", "tiny.sm89.engine.json"}
    manifest = json.loads((tmp_path / "engine" / "tiny.sm89.engine.json").read_text(encoding="utf-8"))
    plan = (tmp_path / "engine" / "tiny.sm89.engine").read_bytes()
    assert manifest["engine_sha256"] == first.sha256 == hashlib.sha256(plan).hexdigest()
    assert manifest["onnx_sha256"] == hashlib.sha256(data).hexdigest()
    assert manifest["bytes"] == first.bytes == len(plan)
    assert manifest["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 17, 32]}]
    assert [each["name"] for each in manifest["outputs"]] == ["y"]


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("g (float[1,50] x) => (int64[2,n] i) { [find] i = NonZero(x) }", "NonZero 'find': "),
        (
            "g (float[1,5000] x) => (float[1,4000] v, int64[1,4000] i) <int64[1] k={4000}> { v, i = TopK(x, k) }",
            "K exceeds the maximum value allowed (3840)",
        ),
        ("g (float[n,50] x) => (float[n,50] y) { y = Relu(x) }", "no optimization profile"),
    ],
)
def test_what_the_library_refuses_is_readable(tmp_path: Path, text: str, says: str) -> None:
    (result,) = build(_parse(text), [load_target("rtx-3090")], tmp_path)
    assert not result.built
    assert result.error is not None
    assert says in result.error
    assert "/_src/" not in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("rtx")
def test_garbage_and_absent_files_are_errors_not_exceptions(tmp_path: Path) -> None:
    (garbage,) = build(b"no onnx", [load_target("rtx-3090")], tmp_path)
    (absent,) = build(tmp_path / "none.onnx", [load_target("rtx-3090")], tmp_path)
    assert garbage.error is not None
    assert "Failed to parse" in garbage.error
    assert absent.error is not None
    assert "cannot be found" in absent.error


@pytest.mark.usefixtures("rtx")
def test_a_build_past_its_time_is_an_error(tmp_path: Path) -> None:
    (result,) = RtxBuilder(timeout_s=0.01).build(b"", [load_target("rtx-3090")], tmp_path, name="model")
    assert result.error == "TensorRT-RTX took longer than 0.01 s: allow more time or a smaller model"
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_result_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    (result,) = RtxBuilder().build(b"", [load_target("rtx-4090")], tmp_path / "engine", name="model", attentions=2)
    assert (result.built, result.attentions) == (False, 2)
    assert result.error == 'TensorRT-RTX is not installed: pip install "edgeprune[rtx]"'
    assert not (tmp_path / "engine").exists()


_INTERRUPTED = """
import sys
from pathlib import Path
from edgeprune_targets.builders.tensorrt_rtx import RtxBuilder
from edgeprune_targets.profiles import load_target
RtxBuilder().build(Path(sys.argv[1]), [load_target("rtx-3090")], Path(sys.argv[2]), name="model")
"""


@pytest.mark.usefixtures("rtx")
def test_an_interrupt_ends_the_child_and_leaves_nothing(
    make_encoder: Callable[..., ir.Model], save: Callable[[ir.Model], Path], tmp_path: Path
) -> None:
    model, folder = save(make_encoder(blocks=12, tokens=65, width=192)), tmp_path / "engine"
    command = [sys.executable, "-c", _INTERRUPTED, str(model), str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as parent:
        while not (builders := _building_children(parent.pid)) and parent.poll() is None:
            time.sleep(0.01)
        parent.send_signal(signal.SIGINT)  # to the parent alone, as an editor or a service would
        _, err = parent.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    assert builders
    assert not any(_runs(pid) for pid in builders)
    assert list(folder.iterdir()) == []


def _building_children(pid: int) -> list[int]:
    """Children of `pid` that have loaded the library."""
    children = _text(f"/proc/{pid}/task/{pid}/children").split()
    return [int(child) for child in children if "tensorrt_rtx" in _text(f"/proc/{child}/maps")]


def _runs(pid: int) -> bool:
    state = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return bool(state) and state[0] != "Z"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def test_fused_attentions_are_counted_by_their_structs() -> None:
    plan = b"x struct _gemm_mha_v2_callback { a } _gemm_mha_v2_0x1 struct _gemm_mha_v2_callback {"
    assert count_fused_attentions(plan) == 2
    assert count_fused_attentions(b"_gemm_mha_v2_0x1") == 0


@pytest.mark.usefixtures("rtx")
def test_neighbours_in_a_call_change_no_engine(make_encoder: Callable[..., ir.Model], tmp_path: Path) -> None:
    data = ir.to_proto(to_fp16(make_encoder(cut="topk"))).SerializeToString()
    before, failed, after = build(data, [load_target(name) for name in ("l4", "rtx-2080ti", "rtx-3090")], tmp_path)
    assert failed.error is not None
    assert "FP32 GEMM is not supported" in failed.error  # scores stay in fp32, and Turing multiplies none
    for together, name in ((before, "l4"), (after, "rtx-3090")):
        (alone,) = build(data, [load_target(name)], tmp_path / "alone")
        assert (alone.sha256, alone.kernels) == (together.sha256, together.kernels)


@pytest.mark.usefixtures("rtx")
def test_the_schedule_in_a_plan_names_the_nodes_of_each_kernel(
    make_encoder: Callable[..., ir.Model], tmp_path: Path
) -> None:
    model = to_fp16(make_encoder(blocks=2, cut="topk"))
    (built,) = build(ir.to_proto(model).SerializeToString(), [load_target("rtx-3090")], tmp_path)
    plan = Path(str(built.path)).read_bytes()
    schedule, manifest = launches(plan), read_manifest(Path(str(built.path)))
    softmaxes = {node.name for node in model.graph if is_attention(node)}
    fused = [launch for launch in schedule if launch.name.startswith("_gemm_mha_v2")]
    assert [len(softmaxes & set(launch.nodes)) for launch in fused] == [1, 1]
    assert unfused(sorted(softmaxes), plan) == ()
    assert unfused(["another", *sorted(softmaxes)], plan) == ("another",)
    known = {node.name for node in model.graph}
    casts = {name for launch in schedule for name in launch.nodes} - known
    assert all("cast" in name for name in casts)  # the parser's own, at the graph's inputs and outputs
    did = Counter(name for launch in schedule if launch.kind != "function" for name in launch.nodes)
    products = [node.name for node in model.graph if node.op_type == "MatMul" and node.name in did]
    assert len(products) >= 2 * 5  # of two blocks, the attentions' own two are in the fused kernels
    assert {did[name] for name in products} == {1}
    assert (manifest.launches, manifest.kernels) == (len(schedule), len(kernel_names(plan)))
    assert built.kernels is not None
    assert 10 < built.kernels < manifest.launches


@pytest.mark.usefixtures("rtx")
def test_an_attention_of_a_single_query_counts_though_its_kernel_is_another(draft: Any, tmp_path: Path) -> None:
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[1, 27, 64])
    normed = draft.norm(x, 64)
    row = draft.op("Slice", normed, *(draft.constant([number], np.int64) for number in (0, 1, 1)))

    def heads(rows: ir.Value, count: int, perm: tuple[int, ...]) -> ir.Value:
        shape = draft.constant((1, count, 4, 16), np.int64)
        return draft.op("Transpose", draft.op("Reshape", draft.linear(rows, 64, 64), shape), perm=perm)

    q = draft.op("Mul", heads(row, 1, (0, 2, 1, 3)), draft.constant(np.float32(0.25)))
    probabilities = draft.op("Softmax", draft.op("MatMul", q, heads(normed, 27, (0, 2, 3, 1))), axis=-1)
    mixed = draft.op("Transpose", draft.op("MatMul", probabilities, heads(normed, 27, (0, 2, 1, 3))), perm=(0, 2, 1, 3))
    y = draft.linear(draft.op("Reshape", mixed, draft.constant((1, 1, 64), np.int64)), 64, 64)
    model = to_fp16(draft.model([x], [draft.op("Relu", y, out="y")]))
    (built,) = build(ir.to_proto(model).SerializeToString(), [load_target("rtx-3090")], tmp_path)
    assert (built.error, built.fused_attentions) == (None, count_attentions(model))
    assert b"_gemv_mha_v1" in Path(str(built.path)).read_bytes()


def test_bytes_without_a_schedule_tell_nothing() -> None:
    assert launches(b"engine") == ()
    assert kernel_names(b"__myl_Add_0x1234567890 __myl_Add __myl_FcAdd") == ("__myl_Add_0x1234567890", "__myl_FcAdd")
