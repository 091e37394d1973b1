"""ToMe and DiffRate as they were published, and simple scores, in PyTorch on the same photographs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from _score import compared, labels, pixels

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

# r of ToMe that comes nearest to 0.8, 0.65 and 0.5 of DeiT-Tiny's MACs; 11 is the figure people quote.
TOME = (6, 11, 16)
STAGES = {3: 137, 6: 96, 9: 67}  # EViT's places, 0.7 at each


def rows(weights: Path, paths: Sequence[Path], threads: int) -> Iterator[dict[str, object]]:
    """The dense model first, then each published reduction."""
    import torch
    from reference import deit_torch, published

    torch.set_num_threads(threads)
    net = deit_torch.load(weights)
    images = torch.from_numpy(np.concatenate([pixels(path) for path in paths]))
    truth = labels(paths)
    plain = {"proportional": False}
    cases = [("dense", None, plain)]
    cases += [(f"ToMe r={r}", published.tome(r), {"proportional": True}) for r in TOME]
    cases += [("DiffRate, DeiT-S schedule", published.diffrate(*published.DIFFRATE_DEIT_S), {"proportional": True})]
    places = (1, 3, 6, 9, 11)
    zero = published.zero_tprune(
        dict(zip(places, (1, 0.9, 0.8, 0.7, 1), strict=True)),
        dict(zip(places, (30, 5, 5, 1, 1), strict=True)),
        dict.fromkeys(places, 10),
    )
    cases += [("Zero-TPrune, DeiT-S places", zero, plain)]
    scores = {"class": "class attention", "mean": "mean attention", "uniform": "uniform", "random": "random"}
    cases += [(f"{label}, 0.7 at 3/6/9", published.by_score(name, STAGES), plain) for name, label in scores.items()]
    dense = whole = None
    for name, reduction, how in cases:
        with torch.no_grad():
            parts = [net.run(chunk, reduction, proportional=how["proportional"]) for chunk in images.split(50)]
        found = torch.cat([logits for logits, _ in parts]).numpy()
        macs = net.macs(parts[0][1])
        dense, whole = (found, macs) if dense is None else (dense, whole)
        yield {"what": f"{name} (PyTorch)", "macs_ratio": macs / whole, **compared(found, dense, truth)}
