"""The wheel: only our packages, with their data; and it works from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = ["edgeprune", "edgeprune_calibration", "edgeprune_passes", "edgeprune_targets"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel with the project's build backend, without a network."""
    from hatchling.builders.wheel import WheelBuilder

    project = Path(__file__).resolve().parents[2]
    folder = tmp_path_factory.mktemp("dist")
    return Path(next(WheelBuilder(str(project)).build(directory=str(folder), versions=["standard"])))


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_nothing_foreign_lands_in_site_packages(unpacked):
    assert sorted(path.name for path in unpacked.iterdir()) == sorted([*PACKAGES, "edgeprune-0.1.0.dist-info"])


def test_only_code_and_its_data_are_inside(unpacked):
    suffixes = {path.suffix for name in PACKAGES for path in (unpacked / name).rglob("*") if path.is_file()}
    assert suffixes <= {".py", ".typed", ".toml", ".json", ".md", ".sh", ".awk", ".css", ".txt"}
    assert not list(unpacked.rglob("__pycache__"))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(unpacked, package):
    assert (unpacked / package / "py.typed").exists()


def test_data_files_are_inside(unpacked, project):
    profiles = {path.name for path in (project / "targets" / "edgeprune_targets" / "profiles").glob("*.toml")}
    assert profiles
    assert {path.name for path in (unpacked / "edgeprune_targets" / "profiles").glob("*.toml")} == profiles
    assert (unpacked / "edgeprune" / "report" / "report.schema.json").exists()
    assert (unpacked / "edgeprune-0.1.0.dist-info" / "licenses" / "LICENSE").exists()


def test_the_wheel_runs_from_another_folder(unpacked, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    where = [sys.executable, "-c", "import edgeprune; print(edgeprune.__file__)"]
    told = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(told.stdout.strip()).is_relative_to(unpacked)
    targets = [sys.executable, "-m", "edgeprune", "targets", "list"]
    listed = subprocess.run(targets, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "rtx-4090" in listed.stdout


def test_the_console_script_runs_from_another_folder(tmp_path):
    script = Path(sys.executable).with_name("edgeprune")
    done = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "edgeprune 0.1.0\n"
