"""Tiny transformers in PyTorch in the spellings that real models use, exported in memory; no weights, no downloads."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

GRID, PATCH = 5, 4


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """Which transformer; 25 patch tokens (15 words in text), width 24, three heads of 8.

    attention: fused, separate, mha, grouped (causal, text), eager (mask as an input, text), packed (split on the last
    axis). norm: pre, post, none. head: class, mean, pool (attention pool), two (distilled), tokens, grid (dense map),
    taps, states (one output a block), norm-class (class token behind LayerNorm of the whole stream).
    """

    attention: str = "fused"
    norm: str = "pre"
    head: str = "class"
    prefix: int = 1
    depth: int = 3
    width: int = 24
    heads: int = 3
    groups: int = 1
    text: bool = False
    rope: bool = False
    relative: bool = False
    parallel: bool = False
    scale_layers: bool = False

    @property
    def patches(self) -> int:
        return 14 if self.text else GRID * GRID

    @property
    def tokens(self) -> int:
        return 15 if self.text else self.patches + self.prefix


class Attention(nn.Module):
    """Self-attention in one spelling."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__()
        self.s, self.heads, self.size = spelling, spelling.heads, spelling.width // spelling.heads
        width, kind = spelling.width, spelling.attention
        self.groups = spelling.groups if kind == "grouped" else self.heads
        if kind == "mha":
            self.mha = nn.MultiheadAttention(width, 3, batch_first=True)
        elif kind in {"fused", "packed"}:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q = nn.Linear(width, width)
            self.k, self.v = (nn.Linear(width, self.groups * self.size) for _ in range(2))
        self.out = nn.Linear(width, width)
        if spelling.relative:
            self.bias = nn.Parameter(torch.randn(1, 3, spelling.tokens, spelling.tokens))
        if spelling.rope:
            angles = torch.randn(spelling.patches, self.size)
            self.register_buffer("cos", angles.cos())
            self.register_buffer("sin", angles.sin())

    def rotate(self, x: Tensor) -> Tensor:
        if not self.s.rope:
            return x
        first, rest = x[:, :, : self.s.prefix], x[:, :, self.s.prefix :]
        half = torch.cat([-rest[..., self.size // 2 :], rest[..., : self.size // 2]], -1)
        return torch.cat([first, rest * self.cos + half * self.sin], 2)

    def qkv_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        B, T, D = x.shape
        if self.s.attention == "fused":
            return self.qkv(x).reshape(B, T, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        if self.s.attention == "packed":
            parts = self.qkv(x).split(D, dim=-1)
            return tuple(p.reshape(B, T, self.heads, self.size).transpose(1, 2) for p in parts)
        q = self.q(x).view(B, T, self.heads, self.size).transpose(1, 2)
        k, v = (f(x).view(B, T, self.groups, self.size).transpose(1, 2) for f in (self.k, self.v))
        if self.groups < self.heads:
            each = self.heads // self.groups
            k, v = (t[:, :, None].expand(B, self.groups, each, T, self.size) for t in (k, v))
            k, v = (t.reshape(B, self.heads, T, self.size) for t in (k, v))
        return q, k, v

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.s.attention == "mha":
            return self.mha(x, x, x, need_weights=False)[0]
        q, k, v = self.qkv_heads(x)
        q, k = self.rotate(q), self.rotate(k)
        scores = (q * self.size**-0.5) @ k.transpose(-2, -1)
        if self.s.relative:
            scores = scores + self.bias
        if self.s.attention == "grouped":
            T = x.shape[1]
            scores = scores + torch.full((T, T), -1e4).triu(1)
        if mask is not None:
            scores = scores + (1 - mask[:, None, None, :].float()) * -1e4
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm, post-norm or parallel."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__()
        width = spelling.width
        self.s = spelling
        self.attention = Attention(spelling)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        kind = nn.Identity if spelling.norm == "none" else nn.LayerNorm
        self.norm1, self.norm2 = kind(width), kind(width)
        self.gain = nn.Parameter(torch.full((width,), 0.5)) if spelling.scale_layers else None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.s.parallel:
            y = self.norm1(x)
            return x + self.attention(y, mask) + self.mlp(y)
        if self.s.norm == "post":
            x = self.norm1(x + self.attention(x, mask))
            return self.norm2(x + self.mlp(x))
        branch = self.attention(self.norm1(x), mask)
        x = x + (branch if self.gain is None else branch * self.gain)
        return x + self.mlp(self.norm2(x))


class Tiny(nn.Module):
    """Embedding, blocks, head."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__()
        self.s = s = spelling
        if s.text:
            self.words = nn.Embedding(40, s.width)
        else:
            self.patch = nn.Conv2d(3, s.width, PATCH, PATCH)
            self.first = nn.Parameter(torch.randn(1, s.prefix, s.width)) if s.prefix else None
        self.position = nn.Parameter(torch.randn(1, s.tokens, s.width))
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.depth))
        self.norm = nn.LayerNorm(s.width)
        self.head, self.other = nn.Linear(s.width, 7), nn.Linear(s.width, 7)
        self.query = nn.Parameter(torch.randn(1, 1, s.width))
        self.decoder = nn.Conv2d(s.width, 2, 3, padding=1)

    def embed(self, x: Tensor) -> Tensor:
        if self.s.text:
            return self.words(x) + self.position
        x = self.patch(x).flatten(2).transpose(1, 2)
        if self.first is not None:
            x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1)
        return x + self.position

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        x = self.embed(x)
        states = []
        for block in self.blocks:
            x = block(x, mask)
            states.append(x)
        if self.s.head == "states":
            return tuple(states)
        if self.s.head == "taps":
            return self.norm(states[0]), self.norm(states[-1])
        x = self.norm(x)
        return self.read(x)

    def read(self, x: Tensor) -> Tensor:
        match self.s.head:
            case "mean":
                return self.head(x[:, self.s.prefix :].mean(1))
            case "pool":
                weights = (self.query @ x.transpose(1, 2)).softmax(-1)
                return self.head((weights @ x)[:, 0])
            case "two":
                return (self.head(x[:, 0]) + self.other(x[:, 1])) / 2
            case "tokens":
                return self.head(x)
            case "grid":
                grid = x[:, self.s.prefix :].transpose(1, 2).reshape(x.shape[0], self.s.width, GRID, GRID)
                return self.decoder(grid)
        return self.head(x[:, 0])


def build(spelling: Spelling) -> Tiny:
    """The module with weights that depend on nothing but the spelling."""
    torch.manual_seed(5)
    model = Tiny(spelling).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(1.7)  # sharper attention: a dropped token shows in the output
    return model


def example(spelling: Spelling, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs by name."""
    rng = np.random.default_rng(seed)
    if not spelling.text:
        side = GRID * PATCH
        return {"x": rng.standard_normal((batch, 3, side, side)).astype(np.float32)}
    inputs = {"x": rng.integers(0, 40, (batch, spelling.tokens))}
    if spelling.attention == "eager":
        mask = np.ones((batch, spelling.tokens), np.int64)
        mask[:, -3:] = 0
        inputs["mask"] = mask
    return inputs


def to_onnx(model: nn.Module, inputs: dict[str, np.ndarray], *, dynamo: bool = False, opset: int = 17) -> bytes:
    """Export with an open batch."""
    buffer = io.BytesIO()
    arguments = tuple(torch.from_numpy(v) for v in inputs.values())
    torch.backends.mha.set_fastpath_enabled(False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = tuple({0: torch.export.Dim("batch")} for _ in arguments)
            program = torch.onnx.export(
                model, arguments, input_names=list(inputs), dynamic_shapes=shapes, dynamo=True, verbose=False
            )
            return program.model_proto.SerializeToString()
        names = {name: {0: "batch"} for name in inputs}
        torch.onnx.export(
            model, arguments, buffer, input_names=list(inputs), dynamic_axes=names, opset_version=opset, dynamo=False
        )
    return buffer.getvalue()


@lru_cache
def exported(spelling: Spelling, *, dynamo: bool = False, opset: int = 17) -> bytes:
    """The spelling as ONNX; its batch is open."""
    return to_onnx(build(spelling), example(spelling, 2), dynamo=dynamo, opset=opset)


def load(data: bytes) -> ir.Model:
    """A fresh graph."""
    return ir.from_proto(onnx.load_from_string(data))
