"""Tiny Vims in the spellings that matter to a scan, exported in memory: untrained, two blocks, 16 patches by default.

The module is the demo's (`demo/vim.py`); weights are such that a removed token, and a decay that is not aligned, show.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from support.tiny_torch import to_onnx
from torch import Tensor, nn

DEMO = Path(__file__).resolve().parents[2] / "demo"


@dataclass(frozen=True, kw_only=True)
class VimSpelling:
    """Which Vim.

    form: how the recurrence comes out of the exporter: unrolled (traced, one group of nodes a token), scan (ONNX Scan,
    by PyTorch's higher-order scan and its dynamo exporter). token: place of the class token: middle, first, last, or
    none (mean over patches). two_streams: hidden state and residual are carried apart, as Vim does, and added before
    each norm. halved: the two directions are averaged rather than added.
    """

    form: Literal["unrolled", "scan"] = "unrolled"
    token: Literal["middle", "first", "last", "none"] = "middle"
    side: int = 16
    depth: int = 2
    width: int = 16
    states: int = 4
    two_streams: bool = False
    halved: bool = False

    @property
    def patches(self) -> int:
        return (self.side // 4) ** 2

    @property
    def tokens(self) -> int:
        return self.patches + (self.token != "none")

    @property
    def place(self) -> int | None:
        """Index of the class token."""
        return {"middle": self.patches // 2, "first": 0, "last": self.patches, "none": None}[self.token]


def demo_module(name: str) -> ModuleType:
    """A module of the folder `demo`, which is no package."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, DEMO / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class TinyVim(nn.Module):
    """The demo's blocks between an embedding and a head in the asked spelling."""

    def __init__(self, spelling: VimSpelling) -> None:
        super().__init__()
        vim = demo_module("vim")
        size = vim.Size(
            side=spelling.side, channels=3, width=spelling.width, depth=spelling.depth, states=spelling.states
        )
        self.s, self.vim = spelling, vim.Vim(size)
        self.vim.positions = nn.Parameter(torch.randn(1, spelling.tokens, spelling.width) * 0.5)

    def forward(self, image: Tensor) -> Tensor:
        """[B,3,16,16] -> logits [B,10]."""
        stream = self.embed(image)
        stream = self.two_streams(stream) if self.s.two_streams else self.one_stream(stream)
        stream = self.vim.norm(stream)
        return self.vim.head(stream.mean(1) if self.s.place is None else stream[:, self.s.place])

    def embed(self, image: Tensor) -> Tensor:
        x = self.vim.patches(image).flatten(2).transpose(1, 2)
        token = self.vim.class_token.expand(x.shape[0], -1, -1)
        half = self.s.patches // 2
        match self.s.token:
            case "middle":
                x = torch.cat([x[:, :half], token, x[:, half:]], 1)
            case "first":
                x = torch.cat([token, x], 1)
            case "last":
                x = torch.cat([x, token], 1)
        return x + self.vim.positions

    def one_stream(self, stream: Tensor) -> Tensor:
        for block in self.vim.blocks:
            stream = stream + self.branch(block, block.norm(stream))
        return stream

    def two_streams(self, hidden: Tensor) -> Tensor:
        residual = None
        for block in self.vim.blocks:
            residual = hidden if residual is None else residual + hidden
            hidden = self.branch(block, block.norm(residual))
        return residual + hidden

    def branch(self, block: nn.Module, x: Tensor) -> Tensor:
        x, z = block.in_proj(x).transpose(1, 2).chunk(2, dim=1)
        y = block.forwards(x) + block.backwards(x.flip(-1)).flip(-1)
        if self.s.halved:
            y = y / 2
        return block.out_proj((y * nn.functional.silu(z)).transpose(1, 2))


def build(spelling: VimSpelling) -> TinyVim:
    """The module with weights that depend on nothing but the spelling (and not on its form)."""
    torch.manual_seed(5)
    model = TinyVim(spelling).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("dt_proj.bias"):
                parameter.uniform_(-3.0, 0.5)  # steps of 0.05 to 1: decays that differ, and that are felt
            elif name.endswith("A_log"):
                parameter.add_(torch.rand_like(parameter) - 0.5)
            elif name.endswith(("x_proj.weight", "in_proj.weight", "out_proj.weight")):
                parameter.mul_(3.0)
    return model


def example(spelling: VimSpelling, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs by name."""
    rng = np.random.default_rng(seed)
    return {"image": rng.standard_normal((batch, 3, spelling.side, spelling.side)).astype(np.float32)}


def reference(spelling: VimSpelling, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Logits of PyTorch."""
    with torch.no_grad():
        return build(spelling)(torch.from_numpy(inputs["image"])).numpy()


@lru_cache
def exported(spelling: VimSpelling, *, opset: int = 17) -> bytes:
    """The spelling as ONNX with an open batch; the scan form is the dynamo exporter's, of its own opset."""
    model = build(replace(spelling))
    if spelling.form == "unrolled":
        return to_onnx(model, example(spelling, 2), opset=opset)
    module = demo_module("vim")
    plain, module.selective_scan = module.selective_scan, _scanned
    try:
        return to_onnx(model, example(spelling, 2), dynamo=True)
    finally:
        module.selective_scan = plain


def _scanned(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """`selective_scan` by PyTorch's higher-order scan."""
    from torch._higher_order_ops.scan import scan

    def step(h: Tensor, row: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        decay, added, c = row
        h = decay * h + added
        return h, (h * c.unsqueeze(1)).sum(-1)

    decay = torch.exp(delta.unsqueeze(-1) * A[:, None, :])
    added = (delta * u).unsqueeze(-1) * B.transpose(1, 2).unsqueeze(1)
    start = torch.zeros(u.shape[0], u.shape[1], A.shape[1])
    rows = (decay.permute(2, 0, 1, 3), added.permute(2, 0, 1, 3), C.permute(2, 0, 1))
    return scan(step, start, rows, dim=0)[1].permute(1, 2, 0) + u * D[:, None]
