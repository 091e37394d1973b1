"""Train the demo's vision transformer on the digits that scikit-learn ships, and export it to ONNX.

Run from anywhere: `python demo/train_digits.py`. Needs torch and scikit-learn, no download, a few minutes on two cores.
Writes beside itself: `digits_vit.onnx`, `digits_test.npz` (held-out images under the graph input's name) and
`digits_labels.npy` (their labels).
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
SIDE, PATCH, WIDTH, HEADS, BLOCKS, CLASSES = 32, 4, 64, 4, 6, 10
SEED = 0


class Block(nn.Module):
    """Pre-norm attention and MLP, each on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,T,D] -> [B,T,D]."""
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(B, T, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        probs = ((q * (D // HEADS) ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        x = x + self.proj((probs @ v).transpose(1, 2).reshape(B, T, D))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class DigitsViT(nn.Module):
    """Vision transformer for [B,1,32,32]: 64 patch tokens, one class token, 6 blocks of width 64."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.empty(1, (SIDE // PATCH) ** 2 + 1, WIDTH).normal_(std=0.02))
        self.blocks = nn.Sequential(*[Block() for _ in range(BLOCKS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[B,1,32,32] -> logits [B,10]."""
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The 1797 digits as [n,1,32,32] in [-1, 1], and their labels."""
    images, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(images.reshape(-1, 1, 8, 8) / 8 - 1).float()
    return functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False), torch.from_numpy(
        labels
    )


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by up to one patch in both directions; what comes in is background."""
    padded = functional.pad(images, (PATCH,) * 4, value=-1.0)
    rows = torch.randint(0, 2 * PATCH + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([p[:, y : y + SIDE, x : x + SIDE] for p, (y, x) in zip(padded, rows, strict=True)])


def train(model: DigitsViT, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """AdamW with warm-up and a cosine, on shifted images."""
    generator = torch.Generator().manual_seed(SEED)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    batches = math.ceil(len(images) / 64)
    warm, total = 5 * batches, epochs * batches
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / total)))
    )
    for epoch in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(64):
            loss = functional.cross_entropy(model(shifted(images[rows], generator)), labels[rows], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.4f}", flush=True)


def export(model: DigitsViT, path: Path) -> None:
    """Write the graph, with a dynamic batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it has another exporter by now
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, SIDE, SIDE),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )


def main() -> None:
    """Train, score on the held-out fifth, write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(mode=True)
    images, labels = digits()
    parts = train_test_split(images, labels, test_size=0.2, random_state=SEED, stratify=labels)
    train_x, test_x, train_y, test_y = parts
    model = DigitsViT()
    train(model, train_x, train_y, options.epochs)
    model.eval()
    with torch.no_grad():
        accuracy = (model(test_x).argmax(-1) == test_y).float().mean().item()
    options.out.mkdir(parents=True, exist_ok=True)
    export(model, options.out / "digits_vit.onnx")
    np.savez_compressed(options.out / "digits_test.npz", image=test_x.numpy())
    np.save(options.out / "digits_labels.npy", test_y.numpy())
    print(f"held-out accuracy {accuracy:.4f} on {len(test_y)} images")


if __name__ == "__main__":
    main()
