"""The references agree with each other and with what is published, so that they can judge others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reference import formulas


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def soft(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


@pytest.mark.parametrize("prefix", [1, 2, 5])
def test_every_choice_keeps_the_contract(rng: np.random.Generator, prefix: int) -> None:
    B, H, T, d, keep = 2, 3, 26 + prefix, 4, 17
    x, k = rng.standard_normal((B, T, H * d)), rng.standard_normal((B, H, T, d))
    probs, size = soft(rng.standard_normal((B, H, T, T))), rng.integers(1, 4, (B, T)).astype(float)
    choices = [
        formulas.uniform(T, B, prefix, keep),
        formulas.cls_topk(probs, prefix, keep),
        formulas.mean_attention(probs, prefix, keep),
        formulas.tome(k, size, prefix, keep),
        formulas.prune_merge(x, probs, size, prefix, keep, 21),
        formulas.zero_tprune(probs, k, prefix, keep, drop=4, votes=5),
    ]
    for index, matrix, _ in choices:
        assert index.shape == (B, prefix + keep)
        assert (np.diff(index, axis=1) > 0).all()
        assert (index[:, :prefix] == np.arange(prefix)).all()
        if matrix is not None:
            np.testing.assert_allclose(matrix.sum(-1), 1)
            assert (np.take_along_axis(matrix, index[..., None], 2) > 0).all()


def test_tome_keeps_the_sum_of_sizes_and_the_weighted_mean(rng: np.random.Generator) -> None:
    k, size = rng.standard_normal((1, 2, 21, 4)), rng.integers(1, 4, (1, 21)).astype(float)
    x = rng.standard_normal((1, 21, 8))
    _, matrix, after = formulas.tome(k, size, 1, 14)
    assert matrix is not None
    assert after is not None
    assert after.sum() == size.sum()
    np.testing.assert_allclose((after[..., None] * (matrix @ x)).sum(1), (size[..., None] * x).sum(1))


def test_head_filter_falls_back_to_all_heads() -> None:
    """Uniform attention has no spread, so every head fails the filter; a mean over none would be NaN."""
    T = 9
    probs = np.full((1, 2, T, T), 1 / T)
    k = np.random.default_rng(0).standard_normal((1, 2, T, 4))
    choice = formulas.zero_tprune(probs, k, 1, 5, drop=0, votes=30)
    assert choice.index.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_torch_and_numpy_choose_alike(shared: Path) -> None:
    """Zero-TPrune, DiffRate and the class score in PyTorch against numpy, in a block of DeiT-Tiny on a photograph."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from PIL import Image

    from reference import deit_torch, published

    net = deit_torch.load(shared / "data" / "deit_tiny_patch16_224.safetensors")
    path = sorted((shared / "data" / "imagenet-sample").glob("*.jpg"))[7]
    with Image.open(path) as photo:
        image = deit_torch.pixels(photo)
    seen = {}

    def watch(here: deit_torch.Seen) -> tuple[torch.Tensor, torch.Tensor]:
        seen[here.block] = here
        return here.x, here.size

    with torch.no_grad():
        net(torch.from_numpy(image)[None], watch)
        here = seen[4]
        x, k, probs, size = (t.double().numpy() for t in (here.x, here.k, here.probs, here.size))
        zero, _ = published.zero_tprune({4: 0.7}, {4: 5}, {4: 10})(here)
        pruned, merged = [180] * 12, [150] * 12
        rate, rate_size = published.diffrate(pruned, merged)(here)
        cls, _ = published.by_score("class", {4: 100})(here)
    index = formulas.zero_tprune(probs, k, 1, int(0.7 * 186), drop=10, votes=5).index
    np.testing.assert_array_equal(zero.numpy()[0], here.x.numpy()[0, index[0]])
    np.testing.assert_array_equal(cls.numpy()[0], here.x.numpy()[0, formulas.cls_topk(probs, 1, 100).index[0]])
    index, matrix, sizes = formulas.prune_merge(x, probs, size, 1, 149, 179, plain=True)
    assert matrix is not None
    assert sizes is not None
    rank = np.concatenate([[0], 1 + formulas.best(probs[0, :, 0, 1:].mean(0), 149)])
    inverse = np.searchsorted(index[0], rank)  # DiffRate's order is by rank, the compiler's by position
    np.testing.assert_allclose(rate.numpy()[0], (matrix[0] @ x[0])[inverse], rtol=1e-4, atol=1e-5)  # fp32 against fp64
    np.testing.assert_allclose(rate_size.numpy()[0], sizes[0][inverse], rtol=1e-5)


def test_published_weights_give_the_published_accuracy(photographs: Path, shared: Path) -> None:
    """DeiT-Tiny finds most of every twenty-fifth photograph; wrong weights or a wrong forward find none."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from reference import deit_torch

    net = deit_torch.load(shared / "data" / "deit_tiny_patch16_224.safetensors")
    images, labels = deit_torch.photographs(photographs, every=25)
    with torch.no_grad():
        logits, counts = net.run(images)
    assert (logits.argmax(1).numpy() == labels).mean() >= 0.7
    assert net.macs(counts) == 1_253_683_200
