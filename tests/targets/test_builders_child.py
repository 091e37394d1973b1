"""The child that builds: what it loses when it crashes, hangs or fails, and that it never outlives its parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgeprune_targets.builders._child import run_jobs

FAKES = Path(__file__).parent / "fake_tensorrt"
TWICE = '<ir_version: 8, opset_import: ["": 17]> g (float[1,4] x) => (float[1,4] y) { y = Add(x, x) }'
CAPABILITIES = ("sm86", "sm89", "sm120")


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A request for three capabilities to a stand-in for TensorRT-RTX."""
    monkeypatch.setenv("FAKE_TRT", "11.1")
    monkeypatch.setenv("FAKE_TRT_RTX", "1")
    monkeypatch.setenv("FAKE_TRT_LOG", str(tmp_path / "calls.jsonl"))
    monkeypatch.setenv("PYTHONPATH", str(FAKES), prepend=os.pathsep)
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(TWICE).SerializeToString())
    request = {
        "module": "tensorrt",
        "builder": "fake",
        "words": "TensorRT-RTX",
        "typing": None,
        "workspace_mib": None,
        "level": None,
        "onnx": str(tmp_path / "m.onnx"),
    }
    return request, [{"engine": str(tmp_path / sm), "sm": sm, "timed": None, "layers": None} for sm in CAPABILITIES]


def _processes(tmp_path: Path) -> list[tuple[str, int]]:
    lines = map(json.loads, (tmp_path / "calls.jsonl").read_text(encoding="utf-8").splitlines())
    calls = [line for line in lines if line["call"] == "build"]
    processes = list(dict.fromkeys(call["process"] for call in calls))
    return [(call["capability"], processes.index(call["process"])) for call in calls]


def test_one_child_reads_the_graph_once_for_all(jobs, tmp_path):
    answers = run_jobs("TensorRT-RTX", *jobs, 60)
    assert [answer["error"] for answer in answers] == [None] * 3
    assert _processes(tmp_path) == [("SM86", 0), ("SM89", 0), ("SM120", 0)]
    assert all((tmp_path / sm).exists() for sm in CAPABILITIES)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("CRASHES", "TensorRT-RTX was ended by SIGSEGV: free(): invalid pointer"),
        ("REFUSES", "not for this one"),
        ("HANGS", "TensorRT-RTX took longer than 8 s: allow more time or a smaller model"),
    ],
)
def test_a_fault_over_one_capability_loses_no_other(jobs, tmp_path, monkeypatch, fault, says):
    monkeypatch.setenv(f"FAKE_TRT_{fault}", "SM89")
    answers = run_jobs("TensorRT-RTX", *jobs, 8 if fault == "HANGS" else 60)
    assert [answer["error"] for answer in answers] == [None, says, None]
    assert _processes(tmp_path) == [("SM86", 0), ("SM89", 0), ("SM120", 1)]  # a library that failed is not asked again


def test_a_child_that_cannot_start_is_asked_once(jobs):
    request, each = jobs
    answers = run_jobs("It", request | {"module": "no_such_library"}, each, 60)
    says = "It ended with code 1: ModuleNotFoundError: No module named 'no_such_library'"
    assert [answer["error"] for answer in answers] == [says] * 3


def test_a_graph_that_cannot_be_read_is_read_once(jobs, tmp_path):
    request, each = jobs
    (tmp_path / "m.onnx").write_bytes(b"no onnx")
    answers = run_jobs("TensorRT-RTX", request, each, 60)
    assert len({answer["error"] for answer in answers}) == 1
    assert answers[0]["error"].startswith("TensorRT-RTX ended with code 1: ")
    assert (tmp_path / "calls.jsonl").read_text(encoding="utf-8").count("create_network") == 1


_PARENT = """
import json, sys
from edgeprune_targets.builders._child import run_jobs
run_jobs("It", *json.loads(sys.argv[1]), 60)
"""


def test_a_child_ends_with_a_parent_that_is_killed(jobs, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TRT_HANGS", "SM86")
    log = tmp_path / "calls.jsonl"
    with subprocess.Popen([sys.executable, "-c", _PARENT, json.dumps(jobs)]) as parent:
        _until(lambda: log.exists() and '"build"' in log.read_text(encoding="utf-8"))
        parent.kill()
    child = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["process"]
    _until(lambda: not _runs(child))


def _until(true: Any) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return False
    return state[0] != "Z"
