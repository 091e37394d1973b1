"""A rule that is configured is shown to bite once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(sys.executable).parent
PACKAGES = ("edgeprune", "passes/edgeprune_passes", "targets/edgeprune_targets", "calibration/edgeprune_calibration")


def lint(project: Path, code: str, at: str) -> str:
    """Lint code as if it stood in a file of the project; return the names of the rules that bit."""
    words = [TOOLS / "ruff", "check", "--output-format=concise", "--no-cache", "--stdin-filename", project / at, "-"]
    return subprocess.run(words, input=code, cwd=project, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("print(1)\n", "print"),
        ("from . import plan\n", "relative-imports"),
        ("import pickle\n", "plans and reports are JSON"),
        ("import onnx\n\nonnx.helper.make_node('Add', [], [])\n", "build graphs with onnx_ir"),
        (
            "def f(x):\n    '''Do.'''\n    try:\n        return x()\n    except Exception:\n        return None\n",
            "blind",
        ),
        ("def f(wide: bool) -> None:\n    '''Do.'''\n", "boolean"),
        ("def f() -> int:\n    return 1\n", "undocumented-public-function"),
        ("def f(x: int) -> None:\n    '''Do.'''\n    raise KeyError(x)\n", "docstring-missing-exception"),
        ('def f(kind: str) -> str:\n    """Do."""\n    return "no {kind}"\n', "missing-f-string"),
    ],
)
def test_ruff_bites(project, code, rule):
    assert rule in lint(project, code, "edgeprune/core/example.py")


def test_ruff_limits_complexity(project):
    branches = "".join(f"    if x == {i}:\n        y += {i}\n" for i in range(9))
    code = f'def f(x: int) -> int:\n    """Do."""\n    y = 0\n{branches}    return y\n'
    assert "complex" in lint(project, code, "edgeprune/core/example.py")


@pytest.mark.parametrize(
    ("room", "code", "broken"),
    [
        ("edgeprune/core", "import onnxruntime\n", "Core, passes, report and options run no model BROKEN"),
        ("edgeprune/core", "import edgeprune_passes\n", "The rooms stand on each other in one order BROKEN"),
        ("passes/edgeprune_passes", "import edgeprune_calibration\n", "stand on each other in one order BROKEN"),
        ("targets/edgeprune_targets", "import rich\n", "know how a terminal looks BROKEN"),
    ],
)
def test_import_linter_bites(project, tmp_path, room, code, broken):
    for package in PACKAGES:
        shutil.copytree(project / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project / "pyproject.toml", tmp_path)
    (tmp_path / room / "example.py").write_text(code)
    rooms = os.pathsep.join(str((tmp_path / package).parent) for package in PACKAGES)
    done = subprocess.run(
        [TOOLS / "lint-imports", "--no-cache"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": rooms}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert broken in done.stdout
