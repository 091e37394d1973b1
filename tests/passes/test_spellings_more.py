"""Spellings that only some real models have: counted or convolved positions, videos, stems, gates, late tokens."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx_ir as ir
import pytest
import torch
from support.surgery import forward, prove_cuts, reduce
from support.tiny_torch import load, to_onnx
from torch import Tensor, nn

from edgeprune.core.plan import StrategySpec
from edgeprune.core.recognition import recognize
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.registry import make_strategy

WIDTH, HEADS, SIZE = 24, 3, 8
WORDS, FRAMES = 17, 21


class Attention(nn.Module):
    """Fused projection; `kind` says what stands around the softmax."""

    def __init__(self, kind: str, tokens: int) -> None:
        super().__init__()
        self.kind, self.tokens = kind, tokens
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.table = nn.Parameter(torch.randn(1, tokens, tokens))

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, T, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4).unbind(0)
        if self.kind == "merged":  # [B*H, T, T], as DeBERTa has it
            q, k, v = (t.reshape(B * HEADS, T, SIZE) for t in (q, k, v))
        scores = q @ k.transpose(-2, -1) * SIZE**-0.5
        if self.kind == "merged":
            scores = scores + self.table
        if self.kind == "causal":
            scores = scores + torch.full((T, T), -torch.inf).triu(1)
        probs = scores.softmax(-1)
        if self.kind == "gated":  # ConViT: a constant attention is mixed in, and the sum is made one again
            probs = 0.6 * probs + 0.4 * self.table.softmax(-1)
            probs = probs / probs.sum(-1, keepdim=True)
        context = (probs @ v).reshape(B, HEADS, T, SIZE)
        return self.out(context.transpose(1, 2).reshape(B, T, WIDTH))


class Encoder(nn.Module):
    """Pre-norm blocks; `mixed` convolves the tokens behind each attention."""

    def __init__(self, tokens: int, kind: str = "plain", *, mixed: bool = False) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(Attention(kind, tokens) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(6))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 48), nn.GELU(), nn.Linear(48, WIDTH)) for _ in range(3)
        )
        self.mix = nn.Conv1d(WIDTH, WIDTH, 3, padding=1) if mixed else None

    def forward(self, x: Tensor) -> Tensor:
        for i, attention in enumerate(self.attentions):
            x = x + attention(self.norms[2 * i](x))
            if self.mix is not None:
                x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
            x = x + self.mlps[i](self.norms[2 * i + 1](x))
        return x


class CountedPositions(nn.Module):
    """RoBERTa: the position of a word is how many words stand in front of it that are no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(40, WIDTH), nn.Embedding(WORDS + 2, WIDTH)
        self.encoder = Encoder(WORDS)

    def forward(self, x: Tensor) -> Tensor:
        real = (x != 1).long()
        return self.encoder(self.words(x) + self.positions(torch.cumsum(real, 1) * real + 1))


class ConvolvedPositions(nn.Module):
    """wav2vec 2.0: an even kernel over the tokens gives one position too many, which is sliced off."""

    def __init__(self, *, mixed: bool = False) -> None:
        super().__init__()
        self.frames = nn.Conv1d(1, WIDTH, 6, 3)
        self.positions = nn.Conv1d(WIDTH, WIDTH, 4, padding=2, groups=3)
        self.encoder = Encoder(FRAMES, mixed=mixed)

    def forward(self, x: Tensor) -> Tensor:
        x = self.frames(x)
        x = x + self.positions(x)[:, :, :-1]
        return self.encoder(x.transpose(1, 2))


class Video(nn.Module):
    """Tubelets: a convolution over time and space."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.encoder = nn.Conv3d(3, WIDTH, (2, 4, 4), (2, 4, 4)), Encoder(18)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.patch(x).flatten(2).transpose(1, 2))


class Stem(nn.Module):
    """A convolutional stem whose norm runs over the grid; the mean over tokens is the output itself."""

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.GroupNorm(3, 12), nn.Conv2d(12, WIDTH, 2, 2))
        self.encoder = Encoder(16, kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.stem(x).flatten(2).transpose(1, 2)).mean(1)


class LateClass(nn.Module):
    """CaiT: a class token comes behind the blocks, and attends to itself and all patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.encoder = nn.Conv2d(3, WIDTH, 4, 4), Encoder(16)
        self.first = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.patch(x).flatten(2).transpose(1, 2))
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1)
        k, v = self.kv(x).split(WIDTH, -1)
        return ((self.q(x[:, :1]) @ k.transpose(1, 2) * 0.2).softmax(-1) @ v)[:, 0]


class Words(nn.Module):
    """Words in an attention of some kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.words, self.encoder = nn.Embedding(40, WIDTH), Encoder(WORDS, kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.words(x))


MODELS = {
    "counted positions": CountedPositions,
    "convolved positions": ConvolvedPositions,
    "video": Video,
    "stem with a norm": Stem,
    "gated attention": lambda: Stem("gated"),
    "late class token": LateClass,
    "heads merged with the batch": lambda: Words("merged"),
    "causal": lambda: Words("causal"),
}
SHAPES = {
    "convolved positions": (1, 3 * FRAMES + 3),
    "mixed tokens": (1, 3 * FRAMES + 3),
    "video": (3, 4, 12, 12),
    "stem with a norm": (3, 16, 16),
    "gated attention": (3, 16, 16),
    "late class token": (3, 16, 16),
}


def inputs(name: str, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    if name in SHAPES:
        return {"x": rng.standard_normal((batch, *SHAPES[name])).astype(np.float32)}
    return {"x": rng.integers(2, 40, (batch, WORDS))}


@lru_cache
def exported(name: str) -> bytes:
    torch.manual_seed(3)
    model = ConvolvedPositions(mixed=True) if name == "mixed tokens" else MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.7)  # sharper attention: a dropped token shows in the output
    return to_onnx(model.eval(), inputs(name, 2))


def canonical(name: str, batch: int) -> ir.Model:
    model = load(exported(name))
    Canonicalize(batch=batch).apply(model)
    return model


def keep_evenly(model: ir.Model, share: float) -> dict[int, int]:
    """The same share of patch tokens goes in each of the first two blocks."""
    stream = recognize(model).found
    patches = stream.tokens - stream.prefix
    return {0: round(patches * share), 1: round(patches * share * share)}


@pytest.mark.parametrize("strategy", ["random", "tome"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_two_cuts_are_exact(name: str, batch: int, strategy: str) -> None:
    dense, pruned = canonical(name, batch), canonical(name, batch)
    plan = reduce(pruned, keep_evenly(dense, 0.75), strategy)
    result = prove_cuts(dense, pruned, plan, [inputs(name, batch, seed) for seed in (1, 2)])
    assert result.passed, result


@pytest.mark.parametrize("name", MODELS)
def test_keeping_all_is_the_identity(name: str) -> None:
    dense, kept = canonical(name, 2), canonical(name, 2)
    stream = recognize(dense).found
    patches = stream.tokens - stream.prefix
    reduce(kept, {0: patches, 1: patches}, "tome")
    feeds = inputs(name, 2)
    for output, wanted in forward(dense, feeds).items():
        np.testing.assert_array_equal(forward(kept, feeds)[output], wanted)


def test_a_convolution_over_tokens_behind_attention_refuses_the_model() -> None:
    found = recognize(canonical("mixed tokens", 1))
    assert found.stream is None
    assert found.refusals[0].code.value == "convolution-over-tokens"
    assert "Conv" in found.refusals[0].at[0]


def test_a_video_has_as_many_tokens_as_tubelets() -> None:
    assert recognize(canonical("video", 1)).found.tokens == 2 * 3 * 3


@pytest.mark.parametrize("strategy", ["cls-topk", "prune-merge"])
def test_the_first_token_of_causal_attention_ranks_nothing(strategy: str) -> None:
    chooser = make_strategy(StrategySpec(name=strategy))
    causal, plain = (recognize(canonical(name, 1)) for name in ("causal", "counted positions"))
    refusal = chooser.refuses(causal.blocks[0], causal.found.prefix)
    assert refusal is not None
    assert refusal.code.value == "no-class-token"
    assert "causal" in refusal.reason
    assert chooser.refuses(plain.blocks[0], plain.found.prefix) is None
