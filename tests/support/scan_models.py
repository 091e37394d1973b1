"""Models with selective scans that are no Vim: beside attention, over a grid, of text; exported as in scan_surgery."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from support.scan_surgery import scan_operator
from support.tiny_torch import load, to_onnx
from support.tiny_vim import demo_module
from torch import Tensor, nn
from torch.nn import functional

from edgeprune_passes.canonicalize import Canonicalize

SIDE, WIDTH = 4, 16
PATCHES = SIDE * SIDE
IMAGE = (3, 4 * SIDE, 4 * SIDE)


def size() -> object:
    return demo_module("vim").Size(side=4 * SIDE, channels=3, width=WIDTH, states=4)


class AttentionBlock(nn.Module):
    """Pre-norm attention and its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return x + self.out(torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v)


class Hybrid(nn.Module):
    """Vim blocks ("s") and attention ("a") in turn; the class token stands in the middle, or first."""

    def __init__(self, blocks: str, *, middle: bool = True) -> None:
        super().__init__()
        vim = demo_module("vim")
        self.place = PATCHES // 2 if middle else 0
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.ModuleList(vim.Block(size()) if kind == "s" else AttentionBlock() for kind in blocks)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        token = self.token.expand(x.shape[0], -1, -1)
        x = torch.cat([x[:, : self.place], token, x[:, self.place :]], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, self.place])


class GridBlock(nn.Module):
    """As in PlainMamba: a 2-D convolution over the patch grid, then a scan along a snake through it."""

    def __init__(self, *, convolved: bool = True) -> None:
        super().__init__()
        vim = demo_module("vim")
        self.norm, self.scan = nn.LayerNorm(WIDTH), vim.Direction(WIDTH, 1, 4, 4)
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH) if convolved else None
        order = np.arange(PATCHES).reshape(SIDE, SIDE)
        order[1::2] = order[1::2, ::-1]
        self.register_buffer("order", torch.from_numpy(order.reshape(-1).copy()))
        self.register_buffer("back", torch.argsort(self.order))

    def forward(self, stream: Tensor) -> Tensor:
        x = self.norm(stream).transpose(1, 2)
        if self.conv is not None:
            x = functional.silu(self.conv(x.reshape(-1, WIDTH, SIDE, SIDE))).flatten(2)
        return stream + self.scan(x[:, :, self.order])[:, :, self.back].transpose(1, 2)


class CrossBlock(nn.Module):
    """As in VMamba: the stream is a picture, and its rows and its columns are scanned."""

    def __init__(self) -> None:
        super().__init__()
        vim = demo_module("vim")
        self.conv, self.scan = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH), vim.Direction(WIDTH, 1, 4, 4)

    def forward(self, picture: Tensor) -> Tensor:
        x = functional.silu(self.conv(picture))
        both = torch.cat([x.flatten(2), x.transpose(2, 3).flatten(2)], 0)
        rows, columns = self.scan(both).reshape(2, -1, WIDTH, SIDE, SIDE).unbind()
        return picture + rows + columns.transpose(2, 3)


class Grid(nn.Module):
    """Blocks over a grid, a mean as head."""

    def __init__(self, *blocks: nn.Module, picture: bool = False) -> None:
        super().__init__()
        self.patches, self.blocks, self.picture = nn.Conv2d(3, WIDTH, 4, 4), nn.ModuleList(blocks), picture

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image)
        x = x if self.picture else x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3)) if self.picture else x.mean(1)


class Causal(nn.Module):
    """A language model of Mamba: scans that run forward alone, one row of logits a token."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        vim = demo_module("vim")
        self.words = nn.Embedding(11, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(depth))
        self.scans = nn.ModuleList(vim.Direction(WIDTH, 1, 4, 4) for _ in range(depth))
        self.mix = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.head = nn.Linear(WIDTH, 11)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for norm, scan, mix in zip(self.norms, self.scans, self.mix, strict=True):
            x = x + scan(mix(norm(x)).transpose(1, 2)).transpose(1, 2)
        return self.head(x)


def canonical_scan(model: nn.Module, batch: int = 1, *, text: bool = False) -> ir.Model:
    """A module with fixed weights, exported and in canonical form."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    inputs = {"ids": np.arange(2 * 14).reshape(2, 14) % 11} if text else {"image": np.zeros((2, *IMAGE), np.float32)}
    with scan_operator():
        exported = load(to_onnx(model.eval(), inputs))
    Canonicalize(batch=batch).apply(exported)
    return exported
