"""Train small Vims on the digits that scikit-learn ships, one a seed, each with its own split, start and order.

Run from anywhere: `python demo/train_digits_vim.py --seeds 0 1 2 3 4`. Needs torch and scikit-learn, no download;
about five minutes a seed on one core. Writes `digits_vim_SEED.npz`, the weights by their names in `vim.Vim`; a seed
that has them already is scored only. `--demo` writes the first seed's graph and 256 of its held-out images beside
this file.

The task: a digit of 24x24 pixels lies anywhere on a field of 32x32; 64 patches of 4x4, of which about half see it.
Two fifths of the images are held out, and each of those is shown at four places, which its index alone decides.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional
from vim import Size, Vim

HERE = Path(__file__).resolve().parent
SIZE = Size(width=32, depth=6)
DIGIT, PLACES, HELD_OUT, SHOWN = 24, 4, 0.4, 256
EPOCHS, BATCH = 45, 64
_MODELS: list[Vim] = []


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images [n,1,24,24] in [-1, 1] and their labels."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def split(seed: int) -> Split:
    """A stratified split of the 1797 digits."""
    images, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(images.reshape(-1, 1, 8, 8) / 8 - 1).float()
    large = functional.interpolate(small, size=(DIGIT, DIGIT), mode="bilinear", align_corners=False).numpy()
    parts = train_test_split(large, labels, test_size=HELD_OUT, random_state=seed, stratify=labels)
    train, test, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return Split(train=train, train_labels=train_labels, test=test, test_labels=test_labels)


def placed(digits: Tensor, generator: torch.Generator) -> Tensor:
    """Each digit somewhere on a field of background: [n,1,24,24] -> [n,1,32,32]."""
    free = SIZE.side - DIGIT
    field = torch.full((len(digits), 1, SIZE.side, SIZE.side), -1.0)
    corners = torch.randint(0, free + 1, (len(digits), 2), generator=generator).tolist()
    for image, digit, (y, x) in zip(field, digits, corners, strict=True):
        image[:, y : y + DIGIT, x : x + DIGIT] = digit
    return field


def held_out(seed: int) -> tuple[Tensor, Tensor]:
    """The test images of a seed at their four places, and their labels: [2876,1,32,32], [2876]."""
    data = split(seed)
    generator = torch.Generator().manual_seed(1)
    return placed(data.test.repeat(PLACES, 1, 1, 1), generator), data.test_labels.repeat(PLACES)


def accuracy(model: Vim, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is at their label."""
    with torch.no_grad():
        found = torch.cat([model(part).argmax(-1) for part in images.split(256)])
    return (found == labels).float().mean().item()


def train(seed: int, epochs: int) -> Vim:
    """AdamW with warm-up and a cosine; what is one-dimensional, and the decays, shrink not."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    data, model = split(seed), Vim(SIZE)
    flat = [p for name, p in model.named_parameters() if p.dim() < 2 or "A_log" in name]
    known = {id(p) for p in flat}
    groups = [
        {"params": flat, "weight_decay": 0.0},
        {"params": [p for p in model.parameters() if id(p) not in known], "weight_decay": 0.05},
    ]
    optimiser = torch.optim.AdamW(groups, lr=3e-3)
    batches = math.ceil(len(data.train) / BATCH)
    warm, total = 3 * batches, epochs * batches
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / total)))
    )
    for epoch in range(epochs):
        start, losses = time.perf_counter(), []
        for rows in torch.randperm(len(data.train), generator=generator).split(BATCH):
            logits = model(placed(data.train[rows], generator))
            loss = functional.cross_entropy(logits, data.train_labels[rows], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        seconds = time.perf_counter() - start
        print(f"seed {seed} epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}, {seconds:.1f} s", flush=True)
    return model.eval()


def save(model: Vim, seed: int, folder: Path) -> None:
    """Write the weights of a seed."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez_compressed(folder / f"digits_vim_{seed}.npz", **state)


def load(seed: int, folder: Path) -> Vim:
    """The trained model of a seed."""
    with np.load(folder / f"digits_vim_{seed}.npz") as weights:
        state = {name: torch.from_numpy(weights[name]) for name in weights.files}
    model = Vim(SIZE)
    model.load_state_dict(state)
    return model.eval()


def export(model: Vim, path: Path) -> None:
    """Write the graph with a dynamic batch, by `edgeprune export`: each scan is one ONNX `Scan`."""
    from edgeprune_calibration.sources import export_torch

    _MODELS[:] = [model]
    export_torch(f"{__name__}:last_model", path, exporter="torchscript", dynamic_batch=True)


def last_model() -> tuple[Vim, Tensor]:
    """What `export` exports, and an example input: a source is named, not passed."""
    return _MODELS[-1], torch.zeros(1, SIZE.channels, SIZE.side, SIZE.side)


def write_demo(seed: int, folder: Path) -> None:
    """The graph of a seed, and held-out images each at its first place, with their labels."""
    export(load(seed, folder), HERE / "digits_vim.onnx")
    images, labels = held_out(seed)
    np.savez_compressed(HERE / "digits_vim_test.npz", image=images[:SHOWN].numpy())
    np.save(HERE / "digits_vim_labels.npy", labels[:SHOWN].numpy())


def main() -> None:
    """Train, score and write each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=HERE.parent / "build" / "vim")
    parser.add_argument("--demo", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        if not (options.out / f"digits_vim_{seed}.npz").exists():
            save(train(seed, options.epochs), seed, options.out)
        images, labels = held_out(seed)
        found = accuracy(load(seed, options.out), images, labels)
        print(f"seed {seed}: held-out accuracy {found:.4f} of {len(labels)}", flush=True)
    if options.demo:
        write_demo(options.seeds[0], options.out)


if __name__ == "__main__":
    main()
