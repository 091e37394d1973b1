"""Vim-Tiny at its true size, of random weights: what a scan costs does not depend on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))

SHAPE = (1, 3, 224, 224)


def vim_tiny() -> Any:
    """24 blocks of width 192, 16 states a channel, 197 tokens with the class token in the middle."""
    import vim

    torch.manual_seed(0)
    return vim.Vim(vim.Size(side=224, patch=16, channels=3, width=192, depth=24, states=16, classes=1000)).eval()
