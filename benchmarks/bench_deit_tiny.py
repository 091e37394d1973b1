"""DeiT-Tiny with its published weights on photographs: what each strategy costs and gains.

    python benchmarks/bench_deit_tiny.py [--parts published,strategies,latency,engines,compile]

Whatever is chosen by data is chosen on every fifth photograph and scored on the others. Writes
`benchmarks/results/deit_tiny.json` and `deit_tiny.md`; a part that is left out keeps its last figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import _published
from _adapter import STRATEGIES, compile_model, export_model
from _results import RESULTS, machine, markdown, write
from _score import compared, interleaved, labels, logits, photographs, pixels

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared" / "data"
WEIGHTS = SHARED / "deit_tiny_patch16_224.safetensors"
BUDGETS = (0.8, 0.65, 0.5)
SEARCH = 20  # schedules that auto tries for the strategy that it takes
FUSED = ("cls-topk", "prune-merge", "tome", "importance-merge")
TARGETS = ("rtx-3090", "rtx-4090")  # SM86, SM89
COLUMNS = {
    "published": ("what", "macs_ratio", "kl", "agreement", "top1"),
    "strategies": ("what", "asked", "macs_ratio", "kl", "agreement", "top1", "error"),
    "latency": ("what", "macs_ratio", "latency_ratio", "dense_p50_ms", "pruned_p50_ms"),
    "engines": ("what", "target", "built", "attentions", "fused_attentions", "error"),
    "compile": ("what", "seconds", "peak_bytes", "file_bytes", "peak_per_file"),
}


class Bench:
    """The model, the photographs and where things are put."""

    def __init__(self, work: Path, threads: int) -> None:
        self.work, self.threads = work, threads
        work.mkdir(parents=True, exist_ok=True)
        self.model = work / "deit_tiny.onnx"
        if not self.model.exists():
            export_model(f"timm:deit_tiny_patch16_224?checkpoint={WEIGHTS}", self.model)
        self.photographs = SHARED / "imagenet-sample"
        # `compile` decides on every fifth sample and scores on the others: the same split.
        self.scored = [path for i, path in enumerate(photographs(self.photographs)) if i % 5]

    def published(self) -> list[dict[str, object]]:
        """Reductions in PyTorch, dense first."""
        return [shown(row) for row in _published.rows(WEIGHTS, self.scored, self.threads)]

    def strategies(self) -> list[dict[str, object]]:
        """Each strategy with its default schedule, and auto with a searched one, at each budget."""
        truth = labels(self.scored)
        dense = logits(self.model, self.scored, self.threads)
        rows = [shown({"what": "dense", "asked": 1.0, "macs_ratio": 1.0, **compared(dense, dense, truth)})]
        for budget in BUDGETS:
            for strategy in (*STRATEGIES, "auto"):
                row: dict[str, object] = {"what": strategy, "asked": budget}
                try:
                    made = compile_model(self.model, self.out(strategy, budget), self.options(strategy, budget))
                except RuntimeError as error:
                    rows.append(shown({**row, "error": str(error)[:200]}))
                    continue
                found = logits(made.model, self.scored, self.threads)
                name = strategy if strategy != "auto" else f"auto ({made.strategy})"
                rows.append(
                    shown({**row, "what": name, "macs_ratio": made.macs_ratio, **compared(found, dense, truth)})
                )
        return rows

    def latency(self) -> list[dict[str, object]]:
        """ONNX Runtime on the CPU, all graphs of a strategy in turns with the dense one."""
        rows = []
        image = pixels(self.scored[0])
        for strategy in (*STRATEGIES, "auto"):
            made = [folder for budget in BUDGETS if (folder := self.out(strategy, budget)).exists()]
            models = [self.model, *(folder / "model.onnx" for folder in made)]
            took = interleaved(models, image, threads=self.threads, rounds=40)
            for i, folder in enumerate(made, start=1):
                report = json.loads((folder / "report.json").read_text())
                row = {
                    "what": folder.name,
                    "macs_ratio": report["pruned"]["macs"] / report["model"]["macs"],
                    "latency_ratio": took["ratio"][i],
                    "dense_p50_ms": took["p50_ms"][0],
                    "pruned_p50_ms": took["p50_ms"][i],
                }
                rows.append(shown(row))
        return rows

    def engines(self) -> list[dict[str, object]]:
        """TensorRT-RTX fp16 engines at 0.65, and how many attentions they fuse."""
        rows = []
        for strategy in FUSED:
            for target in TARGETS:
                options = {"macs": 0.65, "strategy": strategy, "target": target, "precision": "fp16"}
                made = compile_model(self.model, self.work / f"{strategy}-{target}", options)
                rows += [shown({"what": strategy, **engine}) for engine in made.report["engines"]]  # type: ignore[attr-defined]
        return rows

    def compile(self) -> list[dict[str, object]]:
        """Time and peak memory of a compile without data or engine."""
        large = HERE.parent / "build" / "zoo" / "onnx" / "timm_vit_base_patch16_224__L17sf.onnx"
        rows = []
        for name, model in (("DeiT-Tiny", self.model), ("ViT-Base", large)):
            if not model.exists():
                rows.append(shown({"what": name, "seconds": None}))
                continue
            size = model.stat().st_size
            seconds, peak = cost(model, self.work / f"cost-{name}")
            figures = {"seconds": seconds, "peak_bytes": peak, "file_bytes": size, "peak_per_file": peak / size}
            rows.append(shown({"what": name, **figures}))
        return rows

    def out(self, strategy: str, budget: float) -> Path:
        """Folder of one compile."""
        return self.work / f"{strategy}-{budget}"

    def options(self, strategy: str, budget: float) -> dict[str, object]:
        """Options of one compile; only auto decides by data, the others take their default schedule."""
        asked = {"macs": budget, "strategy": strategy, "threads": self.threads, "engine": False}
        chosen = {"data": self.photographs, "search": SEARCH, "preprocess": "imagenet"}
        return {**asked, **chosen} if strategy == "auto" else asked


def cost(model: Path, out: Path) -> tuple[float, int]:
    """Seconds and peak resident bytes of `edgeprune compile --keep 0.7`.

    Raises:
        RuntimeError: if the compile fails.
    """
    words = [sys.executable, "-m", "edgeprune", "compile", str(model), "--keep", "0.7", "--no-engine", "-o", str(out)]
    start = time.perf_counter()
    with subprocess.Popen([*words, "--force"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        msg = f"compile of {model.name} failed with {process.returncode}"
        raise RuntimeError(msg)
    return seconds, usage.ru_maxrss * 1024


def shown(row: dict[str, object]) -> dict[str, object]:
    """Print a row as it comes."""
    print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
    return row


def main() -> None:
    """Run the parts that were asked for, write the tables of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(COLUMNS))
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="folder for models and compiles")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    bench = Bench(options.work, options.threads)
    stored = RESULTS / "deit_tiny.json"
    data = json.loads(stored.read_text()) if stored.exists() else {}
    for part in options.parts.split(","):
        run: Callable[[], list[dict[str, object]]] = getattr(bench, part)
        data[part] = {"machine": machine(options.threads), "rows": run()}
    titles = [part for part in COLUMNS if part in data]
    texts = [
        f"## {part}\n\n" + markdown(COLUMNS[part], [[row.get(c) for c in COLUMNS[part]] for row in data[part]["rows"]])
        for part in titles
    ]
    write("deit_tiny", data, "# DeiT-Tiny\n\n" + "\n".join(texts))


if __name__ == "__main__":
    main()
