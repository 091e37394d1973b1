"""What every room's tests share: the shared material beside the project, and devices."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
SHARED = PROJECT.parent / "shared"


def need(path: Path) -> Path:
    """Return `path`; skip where it is absent, fail where the environment says that it is present."""
    if path.exists():
        return path
    shown = os.path.relpath(path, PROJECT)
    if os.environ.get("EDGEPRUNE_REQUIRE_SHARED") == "1":
        pytest.fail(f"{shown} is absent, but EDGEPRUNE_REQUIRE_SHARED=1 says that it is present")
    pytest.skip(f"{shown} is absent: the shared material lies beside the project")


@pytest.fixture
def project() -> Path:
    """Root of the project."""
    return PROJECT


@pytest.fixture
def shared() -> Path:
    """Folder of the shared material."""
    return need(SHARED)


@pytest.fixture
def photographs(shared: Path) -> Path:
    """Folder of 500 photographs, 256x256, one for every second ImageNet class."""
    return need(shared / "data" / "imagenet-sample")


@pytest.fixture
def zoo() -> Path:
    """Folder of `*.onnx` exports of real architectures, as `make zoo` leaves it or EDGEPRUNE_ZOO names it."""
    named = os.environ.get("EDGEPRUNE_ZOO")
    folder = Path(named) if named else PROJECT / "build" / "zoo" / "onnx"
    if any(folder.glob("*.onnx")):
        return folder
    if named:
        pytest.fail(f"no export in {folder}, but EDGEPRUNE_ZOO says that they are there")
    pytest.skip("no exports in build/zoo: `make zoo` makes them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of a device where there is none."""
    if shutil.which("nvidia-smi"):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA device"))
