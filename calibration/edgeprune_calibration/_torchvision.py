"""Making torchvision importable where its C extension does not load.

The CUDA-built wheel beside a CPU-only PyTorch is such a place: two operators are never declared there, and
registering their shapes fails. Nothing here calls them, so declaring them is enough. timm and transformers import
torchvision by themselves, so this has to come first.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

# Held for the life of the process: PyTorch forgets the schemas with the library object.
_DECLARED: list[Any] = []


def import_torchvision() -> None:
    """Import torchvision if it is installed, and mend it if that fails for undeclared operators.

    Raises:
        RuntimeError: if it fails for another reason.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as exc:
        if "torchvision::" not in str(exc):
            raise
        _declare_operators()
        importlib.import_module("torchvision")


def _declare_operators() -> None:
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    _DECLARED.append(library)
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
