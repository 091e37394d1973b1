"""Structure over real architectures: MLPs and heads of every export are cut as a user would, or it says why not.

    python benchmarks/zoo_structure.py build/zoo/onnx build/zoo-more/onnx [--only SUBSTR] [--exports 1] [--resume]

Exports are those of `benchmarks/zoo.py`; of each architecture the first --exports spellings are taken, small files
first. A compile asks for 0.75 of the MLPs' channels, 0.67 of the heads and 0.75 of their size; a kind that the model
does not have is left out and its refusal told. Inputs are eight random samples that a model can read: smooth images,
words with padding where there is a mask. Every export runs in a process of its own; --resume keeps what an earlier run
wrote. Writes `benchmarks/results/zoo_structure.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
from _adapter import declared
from _results import RESULTS, machine, markdown, write
from zoo import failed

import edgeprune
from edgeprune.core.errors import PlanError
from edgeprune.core.results import Exactness
from edgeprune_passes.canonicalize import Canonicalize

SHARES = {"mlp": 0.75, "heads": 0.67, "head-size": 0.75}
SAMPLES = 8
# Random weights make some outputs nearly constant: below this part of its size a change is rounding.
_FLAT = 1e-5
COLUMNS = ("export", "verdict", "cut", "macs_ratio", "proof", "cosine", "refused", "seconds")


def main() -> None:
    """Run all, or one in this process with --one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", help="folders of exports")
    parser.add_argument("--only", default="", help="exports whose name contains this")
    parser.add_argument("--exports", type=int, default=1, help="spellings of each architecture")
    parser.add_argument("--timeout", type=float, default=600, help="seconds an export may take")
    parser.add_argument("--resume", action="store_true", help="keep the rows of an earlier run")
    parser.add_argument("--one", type=Path, help="one export, in this process; one line of JSON")
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(judge(options.one)))
        return
    rows = earlier() if options.resume else []
    done = {row["export"] for row in rows}
    for path in taken(options.folders, options.only, options.exports):
        if path.stem in done:
            continue
        rows.append(apart(path, options.timeout))
        print("  ".join(str(rows[-1].get(column, "")) for column in COLUMNS), flush=True)
        report(rows, named=not options.only)


def earlier() -> list[dict[str, object]]:
    """Rows that were written before."""
    written = RESULTS / "zoo_structure.json"
    return json.loads(written.read_text())["rows"] if written.exists() else []


def taken(folders: list[Path], only: str, most: int) -> list[Path]:
    """The exports that are run: the first few of every architecture, static ones before dynamic ones."""
    by_name: dict[str, list[Path]] = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.onnx")):
        if only in path.name:
            by_name.setdefault(path.name.split("__")[0], []).append(path)
    chosen = [path for paths in by_name.values() for path in sorted(paths, key=_plainness)[:most]]
    return sorted(chosen, key=lambda path: path.stat().st_size)


def _plainness(path: Path) -> tuple[bool, str]:
    variant = path.stem.rpartition("__")[2]
    return variant[-2] != "s", variant


def apart(path: Path, timeout: float) -> dict[str, object]:
    """Judge one export in another process."""
    start = time.perf_counter()
    try:
        words = [sys.executable, __file__, "--one", str(path)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
        lines = done.stdout.strip().splitlines()
        row = json.loads(lines[-1]) if lines and done.returncode == 0 else _crashed(done)
    except subprocess.TimeoutExpired:
        row = {"verdict": "timeout", "refused": f"over {timeout:.0f} s"}
    return {"export": path.stem, **row, "seconds": round(time.perf_counter() - start, 1)}


def _crashed(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    row = failed(done.stderr, done.returncode)
    return {"verdict": row["verdict"], "refused": row["detail"]}


def judge(path: Path) -> dict[str, object]:
    """Cut what an export has, and say what it has not.

    Raises:
        PlanError: for another reason than that the export lacks a kind of width.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, shapes = Path(folder) / "samples.npz", declared(ir.load(path), 1)
        np.savez(data, **samples(path, shapes))
        shares, refused = dict(SHARES), {}
        while shares:
            asked = {f"{kind.replace('-', '_')}_keep": share for kind, share in shares.items()}
            options = edgeprune.Options(data=data, inputs=shapes, engine=False, threads=1, **asked)
            try:
                made = edgeprune.compile(path, out=Path(folder) / "out", options=options)
            except PlanError as error:
                kind = next((kind for kind in shares if f"no {kind} width of this model" in error.message), None)
                if kind is None:
                    raise
                refused[kind] = error.message.partition(": ")[2]
                del shares[kind]
            except edgeprune.ModelError as error:
                return {"verdict": "refused", "refused": error.message.replace(str(path), path.name)}
            else:
                return _row(made.report, refused)
    return {"verdict": "refused", "refused": _told(refused)}


def _row(made: edgeprune.Report, refused: dict[str, str]) -> dict[str, object]:
    proof = made.validation.widths
    kinds = Counter(row.kind for row in made.widths)
    drift = list(made.validation.drift.values())
    return {
        "verdict": _verdict(proof),
        "cut": ", ".join(f"{kind} x{count}" for kind, count in kinds.items()),
        "macs_ratio": made.budget.macs,
        "proof": None if proof is None else f"{proof.max_abs_error:.1e} of {proof.max_abs_value:.2g}",
        "cosine": float(np.mean([each.cosine for each in drift])) if drift else None,
        "refused": _told(refused),
        "warnings": list(made.warnings),
    }


def _verdict(proof: Exactness | None) -> str:
    """An output that hardly depends on its input cannot tell whether what was cut matters."""
    if proof is None:
        return "unchanged"
    if proof.passed:
        return "proved"
    return "too flat" if proof.sensitivity < _FLAT * proof.max_abs_value else "WRONG"


def _told(refused: dict[str, str]) -> str:
    return "; ".join(f"{kind}: {why}" for kind, why in refused.items())


def samples(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Samples for every input: smooth images, words of a small vocabulary, masks with padding behind."""
    model = ir.load(path)
    Canonicalize(shapes, 1).apply(model)
    rng = np.random.default_rng(0)
    made = {}
    for value in model.graph.inputs:
        shape = (SAMPLES, *value.shape.numpy()[1:])
        dtype = np.dtype(value.dtype.numpy())
        if dtype.kind == "f":
            made[value.name] = _smooth(rng, shape).astype(dtype)
        elif "mask" in value.name:
            lengths = rng.integers(max(2, shape[-1] // 2), shape[-1] + 1, (SAMPLES, *(1,) * (len(shape) - 1)))
            made[value.name] = (np.arange(shape[-1]) < lengths).astype(dtype) * np.ones(shape, dtype)
        else:
            made[value.name] = rng.integers(5, 300, shape).astype(dtype)
    return made


def _smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise whose neighbours resemble each other, as pixels and frames do."""
    noise = rng.standard_normal(shape)
    for axis in range(1 if len(shape) == 3 else 2, len(shape)):
        spectrum = np.fft.rfft(noise, axis=axis)
        slope = 1 / np.sqrt(1 + np.arange(spectrum.shape[axis]))
        noise = np.fft.irfft(spectrum * slope.reshape((-1,) + (1,) * (len(shape) - axis - 1)), shape[axis], axis)
    return noise / noise.std()


def report(rows: list[dict[str, object]], *, named: bool) -> None:
    """The table as JSON and Markdown, where all exports were run."""
    counts = Counter(str(row["verdict"]) for row in rows)
    if named:
        text = markdown(COLUMNS, [[row.get(column) for column in COLUMNS] for row in rows])
        write("zoo_structure", {"machine": machine(1), "counts": counts, "rows": rows}, text, quiet=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
