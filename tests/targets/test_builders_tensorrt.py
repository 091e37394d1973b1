"""The TensorRT builder's calls in each version, against a stand-in that has that version's names and no others."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from edgeprune_targets.builders import tensorrt
from edgeprune_targets.builders.driver import Device
from edgeprune_targets.builders.manifest import read_manifest
from edgeprune_targets.builders.protocol import Origin
from edgeprune_targets.builders.tensorrt import TensorRtBuilder
from edgeprune_targets.profiles import load_target

FAKES = Path(__file__).parent / "fake_tensorrt"
TWICE = (
    '<ir_version: 8, opset_import: ["": 17]> g ({t}[1,4] x) => ({t}[1,4] y) <{t}[1] two = {{2}}> {{ y = Mul(x, two) }}'
)
NON_ZERO = '<ir_version: 8, opset_import: ["": 17]> g (float[1,4] x) => (int64[2,n] i) { [find] i = NonZero(x) }'
ORIN = load_target("jetson-orin")


def _onnx(text: str = TWICE.format(t="float16")) -> bytes:
    return bytes(onnx.parser.parse_model(text).SerializeToString())


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Install a version of the stand-in, with an Orin as this machine's device; gives the log of its calls."""

    def install(words: str) -> Path:
        monkeypatch.setenv("FAKE_TRT", words)
        return tmp_path / "calls.jsonl"

    monkeypatch.setenv("FAKE_TRT_LOG", str(tmp_path / "calls.jsonl"))
    monkeypatch.setenv("PYTHONPATH", str(FAKES), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(FAKES))
    device = Device(name="Orin", compute_capability="8.7", driver="12.6")
    monkeypatch.setattr(tensorrt, "find_device", lambda: device)
    yield install
    sys.modules.pop("tensorrt", None)


def _calls(log: Path, call: str) -> list[dict[str, object]]:
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["call"] == call]


@pytest.mark.parametrize(
    ("words", "typing", "network", "allowed", "used"),
    [
        ("8.5", None, ["EXPLICIT_BATCH"], ["FP16"], "weak"),
        ("8.6", None, ["EXPLICIT_BATCH"], ["FP16"], "weak"),
        ("10.3", None, ["EXPLICIT_BATCH", "STRONGLY_TYPED"], [], "strong"),
        ("10.3", "weak", ["EXPLICIT_BATCH"], ["FP16"], "weak"),
        ("11.1", None, ["STRONGLY_TYPED"], [], "strong"),
    ],
)
def test_each_version_is_asked_in_its_own_words(version, tmp_path, words, typing, network, allowed, used):
    log = version(words)
    builder = TensorRtBuilder(workspace_mib=64, level=5)
    origin = Origin(typing=typing, plan_sha256="ab", runtime=f"tensorrt-{words}")
    (built,) = builder.build(_onnx(), [ORIN], tmp_path / "engine", name="m", attentions=1, origin=origin)
    assert built.error is None
    assert _calls(log, "create_network")[0]["flags"] == network
    (call,) = _calls(log, "build")
    assert call["flags"] == allowed
    assert call["verbosity"] == "DETAILED"
    assert call["level"] == (None if words == "8.5" else 5)
    assert _calls(log, "set_memory_pool_limit") == [
        {"call": "set_memory_pool_limit", "pool": "WORKSPACE", "size": 64 << 20}
    ]
    manifest = read_manifest(Path(built.path))
    assert (manifest.typing, manifest.lowered_for, manifest.plan_sha256) == (used, f"tensorrt-{words}", "ab")
    assert manifest.options == {"workspace_mib": 64, "level": 5}
    assert built.runtime == "TensorRT " + ".".join(manifest.builder_version.split(".")[:3])
    assert manifest.inputs[0].dtype == "float16"


def test_fp32_graphs_are_allowed_no_halves_by_weak_typing(version, tmp_path):
    log = version("8.6")
    TensorRtBuilder().build(_onnx(TWICE.format(t="float")), [ORIN], tmp_path / "engine", name="m")
    assert _calls(log, "build")[0]["flags"] == []


@pytest.mark.parametrize("words", ["8.6", "10.3", "11.1"])
def test_layers_are_read_in_the_inspectors_words_and_kept(version, tmp_path, words):
    version(words)
    (built,) = TensorRtBuilder().build(_onnx(), [ORIN], tmp_path / "engine", name="m", attentions=1)
    assert (built.kernels, built.fused_attentions, built.attentions) == (2, 1, 1)
    assert {path.name for path in (tmp_path / "engine").iterdir()} == {
        "m.sm87.trt.engine",
        "m.sm87.trt.engine.json",
        "m.sm87.trt.engine.layers.json",
    }


def test_timings_are_kept_for_one_version_device_and_driver(version, tmp_path):
    log = version("10.3")
    for _ in range(2):
        TensorRtBuilder().build(_onnx(), [ORIN], tmp_path / "engine", name="m")
    kept = tmp_path / "cache" / "edgeprune" / "timing" / "tensorrt-10.3.0.26-sm87-cuda12.6.cache"
    assert [call["cache"] for call in _calls(log, "build")] == ["", "TIMED by 10.3.0.26"]
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    for stale in (b"torn", b"TIMED by another"):
        kept.write_bytes(stale)
        (built,) = TensorRtBuilder().build(_onnx(), [ORIN], tmp_path / "engine", name="m")
        assert built.built
        assert _calls(log, "build")[-1]["cache"] == ""
        assert kept.read_bytes() == b"TIMED by 10.3.0.26"


def test_a_cache_that_cannot_be_written_costs_no_engine(version, tmp_path):
    version("10.3")
    (tmp_path / "cache").write_bytes(b"a file where a folder should be")
    (built,) = TensorRtBuilder().build(_onnx(), [ORIN], tmp_path / "engine", name="m")
    assert built.built


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("8.6", "no importer registered for op: NonZero"),
        ("10.3", "NonZero 'find': no importer registered for op: NonZero"),
    ],
)
def test_the_parsers_errors_name_the_node_where_the_version_can(version, tmp_path, words, says):
    version(words)
    (built,) = TensorRtBuilder().build(_onnx(NON_ZERO), [ORIN], tmp_path / "engine", name="m")
    assert (built.built, built.error) == (False, says)
    assert list((tmp_path / "engine").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "settings", "typing", "says"),
    [
        ("8.4", {}, None, "TensorRT 8.4.0 is installed, expected 8.5 or later"),
        ("11.1", {}, "weak", "TensorRT 11.1.0.106 types strongly only, and the graph was lowered for weak typing"),
        ("10.3", {"FAKE_TRT_NO_DEVICE": "1"}, None, "CUDA initialization failure with error: 100"),
        ("10.3", {"FAKE_TRT_FAIL": "out of memory in tactic 5"}, None, "out of memory in tactic 5"),
    ],
)
def test_what_cannot_be_built_says_why(version, tmp_path, monkeypatch, words, settings, typing, says):
    version(words)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    origin = Origin(typing=typing)
    (built,) = TensorRtBuilder().build(_onnx(), [ORIN], tmp_path / "engine", name="m", origin=origin)
    assert (built.built, built.error) == (False, says)
    assert list((tmp_path / "engine").iterdir()) == []


def test_what_a_library_prints_is_no_answer(version, tmp_path, monkeypatch):
    version("10.3")
    monkeypatch.setenv("FAKE_TRT_SAYS", '{"error": "not mine"}\n[TRT] hello\n')
    (built,) = TensorRtBuilder().build(_onnx(), [ORIN], tmp_path / "engine", name="m")
    assert built.error is None


def test_a_device_of_another_capability_is_not_built_for(version, tmp_path):
    version("10.3")
    (built,) = TensorRtBuilder().build(_onnx(), [load_target("t4")], tmp_path / "engine", name="m")
    assert built.error is not None
    assert built.error.startswith(
        "TensorRT builds for the GPU of this machine, Orin with compute capability 8.7, expected 7.5"
    )
    assert not (tmp_path / "engine").exists()
