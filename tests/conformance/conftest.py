"""The small model that every registered thing is tried on."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def digits(project: Path) -> Path:
    """The demo's vision transformer: 6 blocks, 64 patch tokens and a class token, open batch."""
    return project / "demo" / "digits_vit.onnx"


@pytest.fixture
def digits_data(project: Path) -> Path:
    """Held-out images of the demo."""
    return project / "demo" / "digits_test.npz"
