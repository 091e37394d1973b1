"""Conformance over real architectures: every export is cut once and proved by the mask oracle, or says why not.

    python benchmarks/zoo.py --out build/zoo [--only SUBSTR] [--timeout SECONDS]
    python benchmarks/zoo.py --out build/zoo-more --more

Exports that are not there are made first, in hours; --deadline bounds it: by ../shared/zoo/export_zoo.py, or with
--more by zoo_more.py beside this file. Every export runs in a process of its own, so that a crash or an endless loop is
one line of the table. Writes `benchmarks/results/zoo.json` and `zoo.md`, or `zoo_more.json` and `zoo_more.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _adapter import cut_once
from _results import machine, markdown, write

from edgeprune.core.refusals import Refusal
from edgeprune_calibration.oracle import find_sites, prove

HERE = Path(__file__).resolve().parent
EXPORTERS = {"zoo": HERE.parent.parent / "shared" / "zoo" / "export_zoo.py", "zoo_more": HERE / "zoo_more.py"}
DYNAMIC = ("df", "du", "hf", "hu")  # how names of exports with a symbolic batch end


def main() -> None:
    """Run all, or one in this process with --one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/zoo"), help="folder of the exporter, onnx/ is below it")
    parser.add_argument("--more", action="store_true", help="the architectures of zoo_more.py")
    parser.add_argument("--only", default="", help="exports whose name contains this")
    parser.add_argument("--timeout", type=float, default=300, help="seconds an export may take")
    parser.add_argument("--deadline", type=float, default=240, help="minutes that exporting may take")
    parser.add_argument("--one", type=Path, help="one export, in this process; one line of JSON")
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(judge(options.one, options.batch)))
        return
    name = "zoo_more" if options.more else "zoo"
    folder = exports(options.out, EXPORTERS[name], options.deadline)
    table = []
    for path in sorted(folder.glob("*.onnx")):
        if options.only in path.name:
            for batch in (1, 2) if path.stem.endswith(DYNAMIC) else (1,):
                row = apart(path, batch, options.timeout)
                table.append(row)
                print(f"{row['verdict']:<8} {row['export']:<52} b{batch} {row['detail']}", flush=True)
    report(table, "" if options.only else name)


def exports(out: Path, exporter: Path, deadline: float) -> Path:
    """Folder of exports, made if there are none."""
    folder = out / "onnx"
    if not any(folder.glob("*.onnx")):
        if not exporter.exists():
            sys.exit(f"no exports in {folder} and no exporter at ../shared/zoo/export_zoo.py")
        words = [sys.executable, str(exporter), "--out", str(out), "--deadline", str(deadline)]
        subprocess.run(words, check=True)
    return folder


def apart(path: Path, batch: int, timeout: float) -> dict[str, object]:
    """Judge one export in another process."""
    words = [sys.executable, __file__, "--one", str(path), "--batch", str(batch)]
    start = time.perf_counter()
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
        lines = done.stdout.strip().splitlines()
        row = json.loads(lines[-1]) if lines and done.returncode == 0 else failed(done.stderr, done.returncode)
    except subprocess.TimeoutExpired:
        row = {"verdict": "timeout", "detail": f"over {timeout:.0f} s"}
    return {"export": path.stem, "batch": batch, **row, "seconds": round(time.perf_counter() - start, 1)}


def failed(stderr: str, code: int) -> dict[str, object]:
    """A row for a crash: the last line of the traceback."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    return {"verdict": "FAILED", "detail": lines[-1][:300] if lines else f"exit code {code}"}


def judge(path: Path, batch: int) -> dict[str, object]:
    """Cut one export and prove it."""
    made = cut_once(path, batch=batch)
    if isinstance(made, Refusal):
        return {"verdict": "refused", "code": made.code.value, "detail": str(made)}
    feeds = list(inputs(made.plan.inputs, made.dense))
    proof = prove(made.dense, made.pruned, made.plan, find_sites(made.pruned, made.plan, made.at), feeds)
    cut = made.plan.cuts[0]
    numbers = f"error {proof.max_abs_error:.1e} of {proof.max_abs_value:.1f}, sensitivity {proof.sensitivity:.1e}"
    return {
        "verdict": "exact" if proof.passed else "WRONG",
        "detail": f"block {cut.block}/{made.plan.blocks}, {made.plan.patch_tokens} -> {cut.keep}, {numbers}",
        "max_abs_error": proof.max_abs_error,
        "max_abs_value": proof.max_abs_value,
        "sensitivity": proof.sensitivity,
        "prefix_tokens": made.plan.prefix_tokens,
    }


def inputs(
    shapes: dict[str, tuple[int, ...]], model: object
) -> Iterator[tuple[tuple[str, ...], dict[str, np.ndarray]]]:
    """One random sample that a model can read: pixels, words of a small vocabulary, masks without a hole."""
    rng = np.random.default_rng(0)
    feed = {}
    for value in model.graph.inputs:
        shape, dtype = shapes[value.name], np.dtype(value.dtype.numpy())
        if dtype.kind == "f":
            feed[value.name] = rng.standard_normal(shape).astype(dtype)
        elif "mask" in value.name:
            feed[value.name] = np.ones(shape, dtype)
        else:
            feed[value.name] = rng.integers(5, 300, shape).astype(dtype)
    yield ("random",), feed


def report(table: list[dict[str, object]], name: str) -> None:
    """Counts on the terminal; the table as JSON and Markdown, unless it has no name."""
    counts = Counter(str(row["verdict"]) for row in table)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    if not name:
        return
    columns = ("export", "batch", "verdict", "detail", "seconds")
    text = markdown(columns, [[row[c] for c in columns] for row in table])
    write(name, {"machine": machine(), "counts": counts, "rows": table}, text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
