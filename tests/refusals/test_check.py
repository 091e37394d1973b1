"""What `check` and the choice of a runtime refuse, word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune import api
from edgeprune.core.errors import EdgepruneError, PlanError, TargetError
from edgeprune.options import Options
from edgeprune_targets.profiles import load_target
from edgeprune_targets.runtimes import runtime_for

MODEL = Path(__file__).resolve().parents[2] / "demo" / "digits_vit.onnx"
ORIN = "jetson-agx-orin-64gb"
CAN_HAVE = "8.5.2, 8.6.2, 10.3.0, 10.16.2, 11.4.1"


def said(error: EdgepruneError) -> tuple[str, str]:
    return error.message, error.hint


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        ("8.4", "TensorRT 8.4 is too old, expected 8.5 or later", f"{ORIN} can have {CAN_HAVE}"),
        ("10.7", f"{ORIN} cannot have TensorRT 10.7", f"it can have {CAN_HAVE}"),
        ("12", f"{ORIN} cannot have TensorRT 12", f"it can have {CAN_HAVE}"),
        ("10", f"TensorRT 10 may be any of 10.3.0, 10.16.2 on {ORIN}", "name the one, as in --tensorrt 10.3.0"),
        ("8", f"TensorRT 8 may be any of 8.5.2, 8.6.2 on {ORIN}", "name the one, as in --tensorrt 8.5.2"),
        ("ten", "`ten` is no version of TensorRT, expected one like 10.3", f"{ORIN} can have {CAN_HAVE}"),
    ],
)
def test_a_version_that_a_jetson_cannot_have(asked: str, message: str, hint: str) -> None:
    with pytest.raises(TargetError) as caught:
        runtime_for(load_target(ORIN), asked)
    assert said(caught.value) == (message, hint)


def test_a_version_older_than_the_gpu() -> None:
    with pytest.raises(TargetError) as caught:
        runtime_for(load_target("rtx-5090"), "10.3")
    assert said(caught.value) == ("rtx-5090 cannot have TensorRT 10.3", "it can have 10.8, 10.16, 11.5")


def test_a_device_that_ended_before_the_oldest_version() -> None:
    with pytest.raises(TargetError) as caught:
        runtime_for(load_target("jetson-nano"))
    assert said(caught.value) == (
        "TensorRT 8.2.1 is too old, expected 8.5 or later",
        "jetson-nano can have 8.0.1, 8.2.1 only; its latency can be modelled: `edgeprune latency`",
    )


def test_a_check_of_nothing() -> None:
    with pytest.raises(PlanError) as caught:
        api.check(MODEL, ())
    assert said(caught.value) == (
        "no target to check the model on",
        "name some with --targets, as in --targets jetson-orin,rtx-4090",
    )


def test_a_graph_that_fp16_cannot_type_is_a_finding(tmp_path: Path) -> None:
    import onnx

    text = """<ir_version: 8, opset_import: ["": 17]> g (float[4] x, int64 n, bool go) => (float[4] y) {
        [at] y = Loop(n, go, x) <body = b (int64 i, bool c, float[4] a) => (bool d, float[4] s) {
            d = Identity(c)  s = Add(a, x) }> }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "loop.onnx")
    report = api.check(tmp_path / "loop.onnx", "jetson-orin", options=Options(threads=1))
    (check,) = report.targets
    assert not check.would_build
    (finding,) = check.findings
    assert finding.reason == "fp16 is not possible: the Loop 'at' reads values from outside its subgraph"
    assert finding.remedy == "use `--precision fp32`"
