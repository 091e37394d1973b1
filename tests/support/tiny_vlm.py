"""Tiny vision towers with a projector, as language models are given them: CLIP's and SigLIP's ways to be read out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnx_ir as ir
import torch
from reference.leaving import Seen
from support.tiny_torch import load, to_onnx
from torch import Tensor, nn

from edgeprune_passes.canonicalize import Canonicalize

ROWS, COLUMNS, PATCH = 4, 6, 4
WIDTH, HEADS, LANGUAGE = 24, 3, 40
SCALE = (WIDTH // HEADS) ** -0.5


@dataclass(frozen=True, kw_only=True)
class Tower:
    """Which tower. kind: clip (class token; read before the last block, class token dropped) or siglip (none; read
    behind the last LayerNorm). projector: mlp, linear, none, shuffle (2x2 pixel shuffle), merger (patch merger in a
    row), pool (2x2 average), gated (two products, multiplied), flat (linear over tokens of all samples in one axis).
    layers: how many last layers are joined along the features. `bare`: no norm. `dead`: the last block stays in the
    graph. `pooled`: a second output, of the class token or a mean.
    """

    kind: str = "clip"
    projector: str = "mlp"
    blocks: int = 3
    layers: int = 1
    bare: bool = False
    dead: bool = False
    pooled: str = ""

    @property
    def prefix(self) -> int:
        return int(self.kind == "clip")


class Block(nn.Module):
    """Pre-norm, separate projections."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.seen: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (f(y).view(*y.shape[:2], HEADS, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        self.seen = q, k
        mixed = torch.softmax(q @ k.transpose(-1, -2) * SCALE, -1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Vlm(nn.Module):
    """Tower and projector."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.t = tower
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, tower.prefix, WIDTH))
        self.place = nn.Parameter(torch.randn(1, ROWS * COLUMNS + tower.prefix, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(tower.blocks))
        self.norm = nn.LayerNorm(WIDTH)
        wide = WIDTH * {"shuffle": 4, "merger": 2}.get(tower.projector, 1) * tower.layers
        self.first, self.second = nn.Linear(wide, LANGUAGE), nn.Linear(LANGUAGE, LANGUAGE)
        self.gate = nn.Linear(wide, LANGUAGE)
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.embed(x).flatten(2).transpose(1, 2)
        if self.t.prefix:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = x + self.place
        read = self.t.blocks - (self.t.kind == "clip")
        states = []
        for block in self.blocks[:read]:
            x = block(x)
            states.append(x[:, self.t.prefix :] if self.t.layers > 1 and self.t.prefix else x)
        last = x
        if self.t.dead:
            for block in self.blocks[read:]:
                last = block(last)
        if self.t.layers > 1:
            x = torch.cat(states[-self.t.layers :], -1)
        elif self.t.kind == "siglip" and not self.t.bare:
            x = self.norm(x)
        self.seen = x
        left = self.project(x if self.t.layers > 1 else x[:, self.t.prefix :])
        if self.t.pooled:
            return left, last[:, 0] if self.t.pooled == "class" else left.mean(1)
        return left

    def project(self, x: Tensor) -> Tensor:
        B = x.shape[0]
        if self.t.projector == "none":
            return x
        if self.t.projector == "shuffle":
            x = x.reshape(B, ROWS // 2, 2, COLUMNS // 2, 2, WIDTH).transpose(2, 3).reshape(B, -1, 4 * WIDTH)
        if self.t.projector == "merger":
            x = x.reshape(B, -1, 2 * WIDTH)
        if self.t.projector == "pool":
            grid = x.transpose(1, 2).reshape(B, WIDTH, ROWS, COLUMNS)
            x = nn.functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)
        if self.t.projector == "flat":
            return self.first(x.reshape(-1, x.shape[-1])).reshape(B, -1, LANGUAGE)
        if self.t.projector == "gated":
            return self.second(self.first(x) * torch.sigmoid(self.gate(x)))
        x = self.first(x)
        return x if self.t.projector == "linear" else self.second(nn.functional.gelu(x))


@lru_cache
def build(tower: Tower) -> Vlm:
    """Random weights that depend on the tower alone, none of them special."""
    torch.manual_seed(3)
    model = Vlm(tower).eval()
    for weight in model.parameters():
        if weight.ndim == 1:
            weight.data += torch.randn_like(weight) * 0.2
    return model


def pixels(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs by name."""
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((batch, 3, ROWS * PATCH, COLUMNS * PATCH)).astype(np.float32)}


@lru_cache
def _exported(tower: Tower, *, dynamo: bool) -> bytes:
    return to_onnx(build(tower), pixels(2), dynamo=dynamo)


def canonical(tower: Tower, batch: int = 1, *, dynamo: bool = False) -> ir.Model:
    """A fresh graph in canonical form."""
    return _canonical(tower, batch, dynamo=dynamo).clone()


@lru_cache
def _canonical(tower: Tower, batch: int, *, dynamo: bool) -> ir.Model:
    model = load(_exported(tower, dynamo=dynamo))
    Canonicalize(batch=batch).apply(model)
    return model


def run(tower: Tower, feed: dict[str, np.ndarray]) -> tuple[Seen, Vlm]:
    """What PyTorch sees where tokens are read out; the model, to project them."""
    model = build(tower)
    with torch.no_grad():
        model(torch.from_numpy(feed["x"]))
    read = model.t.blocks - 1 - (tower.kind == "clip")
    q, k = model.blocks[read].seen
    return Seen(q, k, model.seen, tower.prefix, (ROWS, COLUMNS), SCALE), model
