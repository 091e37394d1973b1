"""The deploy folder, and its script run for real against a stand-in of trtexec."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeprune.core.errors import TargetError
from edgeprune_targets.bundle import write_bundle
from edgeprune_targets.profiles import load_target

FAKE = Path(__file__).parent / "trtexec_fake.sh"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "pruned.onnx").write_bytes(b"pruned")
    (tmp_path / "dense.onnx").write_bytes(b"dense")
    folder = tmp_path / "out" / "deploy"
    target = load_target("jetson-orin")
    write_bundle(folder, tmp_path / "pruned.onnx", b"{}\n", target, dense=tmp_path / "dense.onnx")
    return folder


def _run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {"PATH": os.environ["PATH"], "TRTEXEC": str(FAKE), "FAKE_LOG": str(folder.parent / "log.txt")}
    command = ["bash", str(folder / "build_and_time.sh"), *arguments]
    return subprocess.run(command, env=known | environment, capture_output=True, text=True, check=False)


def test_the_folder_is_complete_and_adds_up(bundle: Path) -> None:
    names = {path.name for path in bundle.iterdir()}
    assert names == {"model.onnx", "dense.onnx", "plan.json", "README.md", "build_and_time.sh", "SHA256SUMS"}
    for line in (bundle / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest
    assert os.access(bundle / "build_and_time.sh", os.X_OK)
    assert "@" not in (bundle / "build_and_time.sh").read_text(encoding="utf-8").replace('"${names[@]}"', "").replace(
        '"${TYPING[@]}"', ""
    )
    assert "power mode MAXN" in (bundle / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_script_passes_shellcheck(bundle: Path) -> None:
    done = subprocess.run(
        ["shellcheck", str(bundle / "build_and_time.sh")], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("number", "version", "typing", "only_build"),
    [
        ("8502", "8.5.2", "--fp16", "--buildOnly"),
        ("8602", "8.6.2", "--fp16", "--skipInference"),
        ("100300", "10.3.0", "--stronglyTyped", "--skipInference"),
        ("101602", "10.16.2", "--stronglyTyped", "--skipInference"),
        ("110401", "11.4.1", "", "--skipInference"),
    ],
)
def test_the_script_builds_and_times_with_the_flags_of_the_version(
    bundle: Path, number: str, version: str, typing: str, only_build: str
) -> None:
    done = _run(bundle, FAKE_VERSION=number)
    assert done.returncode == 0, done.stderr
    measured = json.loads((bundle / "measured.json").read_text(encoding="utf-8"))
    assert json.loads(done.stdout) == measured
    assert (measured["kind"], measured["target"]) == ("measured", "jetson-agx-orin-64gb")
    assert (measured["tensorrt"], measured["precision"]) == (version, "fp16")
    assert measured["pruned"] == {
        "sha256": hashlib.sha256(b"pruned").hexdigest(),
        "samples": 4,
        "gpu_compute_p50_ms": 1.5,  # of 0.95, 1.25, 1.75, 11
        "gpu_compute_p90_ms": 11,
        "gpu_compute_p99_ms": 11,
    }
    assert measured["dense"]["sha256"] == hashlib.sha256(b"dense").hexdigest()
    builds = [line for line in (bundle.parent / "log.txt").read_text().splitlines() if "--onnx" in line]
    assert len(builds) == 2
    for line in builds:
        flags = set(line.split())
        assert flags & {"--fp16", "--stronglyTyped"} == ({typing} if typing else set())
        assert only_build in flags
    assert (bundle / "model.engine").read_text() == "engine"


def test_build_only_times_nothing(bundle: Path) -> None:
    assert _run(bundle, "--build-only").returncode == 0
    assert (bundle / "model.engine").exists()
    assert not (bundle / "measured.json").exists()


def test_a_failing_build_leaves_no_engine_and_says_why(bundle: Path) -> None:
    done = _run(bundle, FAKE_FAIL="1")
    assert done.returncode == 1
    assert "no memory" in done.stderr
    assert "error: trtexec did not build dense.onnx: see dense.build.log" in done.stderr
    assert not list(bundle.glob("*.engine*"))


def test_a_damaged_file_stops_the_script(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"prunes")
    done = _run(bundle)
    assert done.returncode == 1
    assert "error: a file of this folder is damaged" in done.stderr


def test_without_trtexec_the_script_says_where_to_get_it(bundle: Path) -> None:
    done = _run(bundle, TRTEXEC="")
    assert done.returncode == 1
    assert "error: trtexec is not in /usr/src/tensorrt/bin nor on PATH" in done.stderr


@pytest.mark.parametrize("number", ["8401", "7234"])
def test_an_old_tensorrt_is_named(bundle: Path, number: str) -> None:
    done = _run(bundle, FAKE_VERSION=number)
    assert done.returncode == 1
    assert "is too old: 8.5 or later is needed" in done.stderr


def test_an_existing_folder_is_not_touched(bundle: Path, tmp_path: Path) -> None:
    before = sorted(bundle.iterdir())
    with pytest.raises(TargetError, match="it exists"):
        write_bundle(bundle, tmp_path / "pruned.onnx", b"{}", load_target("rtx-4090"))
    assert sorted(bundle.iterdir()) == before


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="No such file or directory"):
        write_bundle(tmp_path / "out" / "deploy", tmp_path / "absent.onnx", b"{}", load_target("jetson-orin"))
    assert list((tmp_path / "out").iterdir()) == []
