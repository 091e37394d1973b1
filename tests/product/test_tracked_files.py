"""What the repository holds: no paths of somebody's machine, no file too large to read or to carry."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
MACHINE = re.compile(rf"(^|[^A-Za-z0-9_.~])/({'|'.join(('home', 'root', 'work', 'tmp', 'opt', 'mnt'))})/")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if not (PROJECT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := PROJECT / name).is_file()]


def test_no_path_of_a_machine(tracked):
    for path in tracked:
        if path.suffix in {".py", ".md", ".toml", ".json", ".sh", ""} and path.name != "LICENSE":
            for line in path.read_text(encoding="utf-8").splitlines():
                assert not MACHINE.search(line), f"{path.relative_to(PROJECT)}: {line.strip()}"


def test_a_file_of_code_has_one_purpose(tracked):
    lengths = {str(path.relative_to(PROJECT)): path.read_text().count("\n") for path in tracked if path.suffix == ".py"}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_nothing_large_is_tracked(tracked):
    assert [str(path) for path in tracked if path.stat().st_size > 3_000_000] == []
