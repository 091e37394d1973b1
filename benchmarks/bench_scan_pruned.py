"""A Vim-Tiny with tokens removed against the dense one: latency in ONNX Runtime on a processor, by alignment.

    python benchmarks/bench_scan_pruned.py [--vim vim_tiny.onnx] [--rounds 10]

Every row is what `edgeprune compile --keep KEEP --strategy STRATEGY --alignment ALIGNMENT` makes; weights are random,
so that this is cost alone: what is lost, is in `scan_accuracy.md`. Dense and pruned models of one form of scan run in
turn in one process, on one thread; a speed-up is the median of the ratios of neighbouring runs. Without `--vim` the
model is exported first. Writes `benchmarks/results/scan_pruned.json` and `.md`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import onnx_ir as ir
from _results import machine, markdown, write
from _vim_tiny import SHAPE

import edgeprune
from edgeprune.compiler.deciding.bench import Bench
from edgeprune.compiler.deciding.budgets import Budget
from edgeprune.compiler.opening.loading import opened
from edgeprune.core.costs import count_macs
from edgeprune.core.plan import Alignment, Option, StrategySpec
from edgeprune_calibration.runner import Runner
from edgeprune_targets.lowering.scans import Form, lower_scans

FORMS: tuple[Form, ...] = ("loop", "chunked")
DROPPED: dict[str, Option] = {"merge": False}


@dataclass(frozen=True)
class Way:
    """How tokens are removed."""

    keep: float
    strategy: str
    alignment: str

    @property
    def options(self) -> edgeprune.Options:
        """Of the compile."""
        return edgeprune.Options(
            strategy=self.strategy,
            strategy_options=DROPPED if self.alignment == "exact" else {},
            alignment=cast("Alignment", self.alignment),
            engine=False,
        )


WAYS = (
    *(Way(0.8, "ssm-runs", alignment) for alignment in ("none", "gap", "bias", "neighbours", "stand-in")),
    Way(0.8, "ssm-delta", "neighbours"),
    Way(0.8, "ssm-delta", "exact"),
    Way(0.8, "ssm-output", "neighbours"),
    *(Way(keep, "ssm-runs", alignment) for keep in (0.9, 0.7) for alignment in ("none", "neighbours", "stand-in")),
)


def in_form(model: ir.Model, form: Form) -> ir.Model:
    """The graph with its scans as loops or in chunks, as it is delivered."""
    made = model.clone()
    lower_scans(made, form)
    return made


def paired(dense: ir.Model, pruned: dict[Way, ir.Model], rounds: int) -> dict[Way | None, np.ndarray]:
    """Milliseconds of interleaved runs; None is the dense model, which runs in front of each of the others."""
    feed = {"image": np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)}
    first = Runner(dense, threads=1).bound(feed)
    runs = {way: Runner(model, threads=1).bound(feed) for way, model in pruned.items()}
    took: dict[Way | None, list[float]] = {None: [], **{way: [] for way in runs}}
    for turn in range(rounds + 1):
        for way, run in runs.items():
            for key, each in ((None, first), (way, run)):
                start = time.perf_counter()
                each(None)
                if turn:
                    took[key].append(1e3 * (time.perf_counter() - start))
    return {way: np.array(values) for way, values in took.items()}


def rows_of(path: Path, rounds: int) -> list[dict[str, object]]:
    """One row a way, with the latencies of both forms."""
    rows: dict[Way, dict[str, object]] = {}
    models: dict[Way, ir.Model] = {}
    with opened(path, edgeprune.Options()) as loaded:
        dense = loaded.dense
        for way in WAYS:
            bench = Bench(loaded, way.options)
            spec = StrategySpec(name=way.strategy, options=way.options.strategy_options)
            plan = bench.plan(spec, bench.first_fit(spec, Budget("keep", way.keep)))
            models[way] = bench.build(plan)
            rows[way] = {
                "keep": way.keep,
                "strategy": way.strategy,
                "alignment": way.alignment,
                "patch_tokens": " ".join(map(str, sorted(set(plan.schedule()), reverse=True))),
                "macs": count_macs(models[way]) / bench.dense_macs,
            }
            print(rows[way], flush=True)
    for form in FORMS:
        took = paired(in_form(dense, form), {way: in_form(m, form) for way, m in models.items()}, rounds)
        before = took[None].reshape(rounds, len(WAYS))
        for i, way in enumerate(WAYS):
            rows[way] |= {
                f"{form}_dense_p50_ms": float(np.median(before[:, i])),
                f"{form}_pruned_p50_ms": float(np.median(took[way])),
                f"{form}_speedup": float(np.median(before[:, i] / took[way])),
            }
            print(form, way, rows[way][f"{form}_speedup"], flush=True)
    return list(rows.values())


def main() -> None:
    """Export if need be, compile, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vim", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.vim or Path(folder) / "vim_tiny.onnx"
        if options.vim is None:
            words = ["export", "_vim_tiny:vim_tiny", str(path), "--exporter", "torchscript"]
            shape = f"image:{'x'.join(map(str, SHAPE))}"
            subprocess.run([sys.executable, "-m", "edgeprune", *words, "--input", shape], check=True)
        rows = rows_of(path, options.rounds)
    data = {"machine": {**machine(1), "load": os.getloadavg()[0]}, "rounds": options.rounds, "rows": rows}
    text = "# A Vim-Tiny with fewer tokens\n\n`python benchmarks/bench_scan_pruned.py`\n\n"
    text += (
        f"{(__doc__ or '').split(chr(10) * 2)[2]}\n\nMilliseconds are measured; MACs are shares of the dense ones.\n"
    )
    text += f"Load of the machine while it was measured: {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores.\n\n"
    write("scan_pruned", data, text + markdown(list(rows[0]), [list(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
