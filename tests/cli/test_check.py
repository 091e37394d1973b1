"""`edgeprune check`: the verdict, what is said about it, and the exit code that a gate reads."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import onnx
import pytest

from edgeprune.cli.main import run
from edgeprune.report import from_json
from edgeprune.report.checked import CheckReport
from edgeprune.report.serialise import schema_of

MODEL = str(Path(__file__).resolve().parents[2] / "demo" / "digits_vit.onnx")
MULTIPLIED = """g (float[4,8] x, int64[2,8] i, float[2,8] u) => (float[4,8] y) {
    [at] y = ScatterElements<reduction="mul">(x, i, u) }"""
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason='TensorRT-RTX is not installed: pip install "edgeprune[rtx]"',
)
# graph, opset, targets and version, what is said; no tokens are found in any of them
GRAPHS = {
    "no static size": (
        "g (float[1,50] x) => (int64[2,n] i) { [at] i = NonZero(x) }", 17, ["rtx-4090"], "TensorRT-RTX 1 has no NonZero"
    ),
    "a scatter of products": (
        MULTIPLIED, 18, ["jetson-orin", "--tensorrt", "8.6"],
        "TensorRT 8.6 ignores the reduction of ScatterElements and computes wrong numbers",
    ),
    "too many kept": (
        "g (float[1,5000] x) => (float[1,4000] v, int64[1,4000] i) <int64[1] k={4000}> { [at] v, i = TopK(x, k) }", 17,
        ["jetson-orin"], "TopK keeps 4000, TensorRT 10.3 at most 3840",
    ),
    "a quantised operator": (
        "g (float[8] x) => (uint8[8] y, float s, uint8 z) { [at] y, s, z = DynamicQuantizeLinear(x) }", 17,
        ["jetson-orin"], "TensorRT 10.3 has no DynamicQuantizeLinear",
    ),
    "a norm that tells its mean": (
        "g (float[2,8] x, float[8] w) => (float[2,8] y, float[2,1] m) { [at] y, m = LayerNormalization(x, w) }", 17,
        ["jetson-orin", "--tensorrt", "8.5"], "TensorRT 8.5 has no LayerNormalization, it came with TensorRT 8.6",
    ),
}  # fmt: skip


def write(folder: Path, text: str, opset: int) -> str:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}'), path)
    return str(path)


def checked(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, CheckReport]:
    code = run(["check", *words, "--json", "--threads", "1"])
    return code, from_json(capfd.readouterr().out.encode(), CheckReport)


@needs_rtx
def test_the_demo_builds_everywhere(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["check", MODEL, "--targets", "jetson-orin,rtx-4090", "--threads", "1"]) == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "jetson-agx-orin-64gb nothing known against it (tensorrt-10.3, fp16), lowered graph equal in ONNX" in shown
    assert (
        "6 of 6 attentions fused by TensorRT-RTX for a related GPU; no engine was tried: TensorRT 10.3 builds" in shown
    )
    assert "rtx-4090 built (tensorrt-rtx-1, fp16)" in shown
    assert "attentions fused" in shown


@needs_rtx
def test_as_json_it_is_one_value(capfd: pytest.CaptureFixture[str]) -> None:
    code, report = checked(capfd, MODEL, "--targets", "rtx-4090", "--batch", "4")
    assert (code, report.would_build) == (0, True)
    (check,) = report.targets
    assert report.inputs == {"image": (4, 1, 32, 32)}
    assert (check.target, check.runtime, check.precision, check.opset) == ("rtx-4090", "tensorrt-rtx-1", "fp16", 17)
    assert check.engine is not None
    assert check.engine.built
    assert check.engine.path is None  # it was built to see, not to keep
    assert check.proof is not None
    assert check.proof.passed
    assert len(report.sha256) == 64


def test_without_a_build_none_is_tried(capfd: pytest.CaptureFixture[str]) -> None:
    code, report = checked(capfd, MODEL, "--targets", "rtx-4090", "--no-build")
    assert (code, report.targets[0].engine, report.targets[0].not_tried) == (0, None, "--no-build")


def test_the_version_on_the_device_decides_the_lowering(capfd: pytest.CaptureFixture[str]) -> None:
    _, report = checked(capfd, MODEL, "--targets", "jetson-orin", "--tensorrt", "8.5")
    (check,) = report.targets
    assert check.runtime == "tensorrt-8.5"
    assert check.changes["layer-norm"] > 0
    assert any("no such kernels for Orin" in finding.reason for finding in check.findings)


def test_unfused_attention_can_be_checked(capfd: pytest.CaptureFixture[str]) -> None:
    _, report = checked(capfd, MODEL, "--targets", "rtx-4090", "--no-build", "--no-fused-attention")
    (check,) = report.targets
    assert check.changes["unfused-attention"] == check.attentions
    assert check.proof is not None
    assert check.proof.passed


@pytest.mark.parametrize("case", GRAPHS)
def test_what_would_not_build_is_exit_code_1(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, opset, words, says = GRAPHS[case]
    code, report = checked(capfd, write(tmp_path, text, opset), "--targets", *words, "--no-build")
    assert (code, report.would_build) == (1, False)
    first = report.targets[0].findings[0]
    assert (first.severity, first.node, first.reason) == ("error", "at", says)
    assert first.remedy


@needs_rtx
def test_what_the_builder_refuses_is_a_finding_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, opset, words, _ = GRAPHS["no static size"]
    code, report = checked(capfd, write(tmp_path, text, opset), "--targets", *words)
    assert code == 1
    assert report.targets[0].engine is not None
    assert not report.targets[0].engine.built
    assert any("does not build it" in finding.reason for finding in report.targets[0].findings)


@needs_rtx
def test_what_only_a_stand_in_refuses_is_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, opset, _, _ = GRAPHS["no static size"]
    code, report = checked(capfd, write(tmp_path, text, opset), "--targets", "jetson-orin")
    (check,) = report.targets
    assert (code, check.engine) == (0, None)
    assert check.stand_in is not None
    assert not check.stand_in.built
    assert check.findings[-1].severity == "warning"
    assert "TensorRT-RTX does not build it for compute capability 8.6" in check.findings[-1].reason


@needs_rtx
def test_a_stand_in_has_no_say_beside_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, opset, words, says = GRAPHS["too many kept"]
    model = write(tmp_path, text, opset)
    code, report = checked(capfd, model, "--targets", *words)
    assert (code, [finding.reason for finding in report.targets[0].findings]) == (1, [says])
    run(["check", model, "--targets", *words])
    assert "0 of 0 attentions" not in capfd.readouterr().out


def test_one_target_of_two_is_enough_to_fail(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, opset, _, _ = GRAPHS["no static size"]
    code, report = checked(capfd, write(tmp_path, text, opset), "--targets", "jetson-orin,rtx-4090", "--no-build")
    assert (code, [check.would_build for check in report.targets]) == (1, [True, False])


def test_a_model_without_tokens_is_no_failure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = "g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }"
    code, report = checked(capfd, write(tmp_path, text, 17), "--targets", "jetson-orin", "--batch", "2")
    assert (code, report.inputs) == (0, {"x": (2, 4)})


def test_the_value_has_a_schema() -> None:
    schema = json.loads(json.dumps(schema_of(CheckReport)))
    assert {"would_build", "targets", "sha256"} <= schema["$defs"]["CheckReport"]["properties"].keys()
    assert {"node", "reason", "remedy"} <= set(schema["$defs"]["Finding"]["required"])
