"""One budget of MACs by tokens, by widths, and by both: compiled as a user would, scored on photographs apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from _adapter import compile_model
from _score import compared, divergences, labels, logits, photographs

if TYPE_CHECKING:
    from pathlib import Path

    from _adapter import Compiled

# `compile` decides and fits on samples 0 and 2 of every five where widths are cut, and scores on the others.
_SCORED = (1, 3, 4)
_AXES = {
    "tokens": "tokens",
    "tokens and structure": "tokens,mlp,heads,head-size",
    "structure": "mlp,heads,head-size",
}
_RESAMPLED = 10_000


def rows_of_budget(model: Path, folder: Path, work: Path, macs: float, threads: int) -> list[dict[str, object]]:
    """A row for each set of axes; what it differs from tokens alone is paired by photograph."""
    scored = [path for i, path in enumerate(photographs(folder)) if i % 5 in _SCORED]
    truth, dense = labels(scored), logits(model, scored, threads)
    rows: list[dict[str, object]] = [{"axes": "none", "macs_ratio": 1.0, **compared(dense, dense, truth)}]
    alone: np.ndarray | None = None
    for name, axes in _AXES.items():
        options = {"macs": macs, "axes": axes, "data": folder, "threads": threads, "engine": False}
        made = compile_model(model, work / f"{macs}-{name.replace(' ', '-')}", options)
        found = logits(made.model, scored, threads)
        row = {"axes": name, "chosen": _chosen(made), "macs_ratio": made.macs_ratio, **compared(found, dense, truth)}
        each = divergences(dense, found)
        alone = each if alone is None else alone
        rows.append({**row, **_against(alone, each)} if each is not alone else row)
        print(rows[-1], flush=True)
    return rows


def _chosen(made: Compiled) -> str:
    """The mix that was taken: the candidate with the least score among mixes."""
    report = made.report["strategy"]
    mixes = [c for c in report["candidates"] if "%" in c["name"] and c["score"] is not None]  # type: ignore[index]
    return str(min(mixes, key=lambda c: c["score"])["name"]) if mixes else str(report["name"])  # type: ignore[index]


def _against(alone: np.ndarray, each: np.ndarray) -> dict[str, object]:
    """Mean difference in KL to tokens alone, and the bounds of its 95 % interval by resampling photographs."""
    difference = each - alone
    rng = np.random.default_rng(0)
    means = difference[rng.integers(0, len(difference), (_RESAMPLED, len(difference)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    better = float(100 * (difference < 0).mean())
    return {"kl_less_tokens": float(difference.mean()), "low": float(low), "high": float(high), "better_on": better}
