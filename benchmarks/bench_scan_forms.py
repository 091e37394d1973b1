"""Selective scans as a loop and in chunks: errors, latency in ONNX Runtime, and TensorRT-RTX builds of a Vim-Tiny.

    python benchmarks/bench_scan_forms.py [--parts scans,candidates,compile,builds] [--vim vim_tiny.onnx] [--rounds 15]

Parts: one scan of Vim-Tiny's size at several lengths and batches; other ways to write it in plain operators; a compile
of the whole model; its engines. Without `--vim` the model is exported first (a minute). Writes
`benchmarks/results/scan_forms.json` and `.md`; parts that are left out keep the rows of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
from _plan_traffic import traffic
from _results import RESULTS, machine, markdown, write
from _scan_candidates import CANDIDATES
from _vim_tiny import SHAPE

from edgeprune.core.costs import count_macs
from edgeprune.core.saving import save_model
from edgeprune.core.scans import carry_function, selective_scan, selective_scans
from edgeprune.core.tape import Tape
from edgeprune_calibration.runner import Runner
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_targets.builders.tensorrt_rtx import RtxBuilder
from edgeprune_targets.latency import estimate
from edgeprune_targets.lowering import lower
from edgeprune_targets.lowering.scan_chunks import Operands, default_chunk
from edgeprune_targets.lowering.scans import lower_scans, standard_scans
from edgeprune_targets.profiles import load_target
from edgeprune_targets.runtimes import runtime_for

CHANNELS, STATES = 384, 16
NAMES = ("step", "input", "A", "B", "C")
EXTREMES = ("mild", "steep", "zero", "tiny", "mixed")
_LEFT_OUT = {"seconds", "cpu_seconds", "error"}
CHUNKS = (8, 10, 14, 20)
TARGETS = {"sm86": "rtx-3090", "sm89": "rtx-4090"}
MODELLED = ("jetson-orin-nano-8gb-super", "jetson-agx-orin-64gb", "rtx-4090")


def lone_scan(batch: int, tokens: int) -> ir.Model:
    """A graph that is one scan of Vim-Tiny's size."""
    sizes = ((batch, tokens, CHANNELS),) * 2 + ((CHANNELS, STATES),) + ((batch, tokens, STATES),) * 2
    values = [
        ir.Value(name=name, shape=ir.Shape(size), type=ir.TensorType(ir.DataType.FLOAT))
        for name, size in zip(NAMES, sizes, strict=True)
    ]
    node = selective_scan(values, name="y")
    graph = ir.Graph(values, [node.outputs[0]], nodes=[node], opset_imports={"": 17}, name="scan")
    model = ir.Model(graph, ir_version=8)
    carry_function(model)
    return model


def in_form(batch: int, tokens: int, form: str) -> ir.Model:
    """The scan as a loop, in chunks, or as a candidate."""
    model = lone_scan(batch, tokens)
    if form in {"loop", "chunked"}:
        lower_scans(model, form)
        return model
    (node,) = model.graph
    y = CANDIDATES[form](Tape(model, before=node, prefix=form), Operands.of(node))
    model.graph.outputs[0] = y
    model.graph.remove(node, safe=True)
    model.functions.clear()
    return model


def inputs_of(kind: str, batch: int, tokens: int) -> dict[str, np.ndarray]:
    """As Mamba feeds a scan, and at every extreme: sums of step * |A| beyond 300 in two tokens, and none."""
    rng = np.random.default_rng(tokens)
    wide, narrow = (batch, tokens, CHANNELS), (batch, tokens, STATES)
    step = {
        "mild": np.log1p(np.exp(rng.normal(-4, 1, wide))),
        "steep": rng.uniform(10.0, 110.0, wide),
        "zero": np.zeros(wide),
        "tiny": np.full(wide, 1e-6),
        "mixed": rng.choice([0.0, 1e-6, 1e-3, 0.1, 1.0, 20.0, 100.0], wide),
    }[kind]
    made = {"step": step, "input": rng.normal(size=wide), "B": rng.normal(size=narrow), "C": rng.normal(size=narrow)}
    made["A"] = -np.tile(np.arange(1.0, STATES + 1), (CHANNELS, 1))
    return {name: array.astype(np.float32) for name, array in made.items()}


def recurrence(fed: dict[str, np.ndarray]) -> np.ndarray:
    """The formula in double precision."""
    step, added, matrix, rows, columns = (fed[name].astype(np.float64) for name in NAMES)
    state, out = np.zeros((step.shape[0], CHANNELS, STATES)), np.zeros_like(step)
    for t in range(step.shape[1]):
        state = np.exp(step[:, t, :, None] * matrix) * state + added[:, t, :, None] * rows[:, t, None, :]
        out[:, t] = (state * columns[:, t, None, :]).sum(-1)
    return out


def error(run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], batch: int, tokens: int) -> float:
    """Largest error over the largest value, at the worst extreme, forwards and backwards; infinite if it overflows."""
    worst = 0.0
    for kind in EXTREMES:
        fed = inputs_of(kind, batch, tokens)
        for way in (1, -1):
            turned = {n: a if n == "A" else np.ascontiguousarray(a[:, ::way]) for n, a in fed.items()}
            (found,), wanted = run(turned).values(), recurrence(turned)
            off = np.abs(found - wanted).max() / np.abs(wanted).max()
            worst = max(worst, float(np.nan_to_num(off, nan=np.inf, posinf=np.inf)))
    return worst


def times(models: dict[str, ir.Model], fed: dict[str, np.ndarray], rounds: int) -> dict[str, np.ndarray]:
    """Latencies in ms of interleaved runs, one thread."""
    runs = {name: Runner(model, threads=1).bound(fed) for name, model in models.items()}
    took = {name: np.empty(rounds + 2) for name in runs}
    for turn in range(rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run(None)
            took[name][turn] = 1e3 * (time.perf_counter() - start)
    return {name: values[2:] for name, values in took.items()}


def scans(options: argparse.Namespace) -> list[dict[str, object]]:
    """One scan, both forms."""
    rows = []
    for tokens in (64, 197, 1025):
        for batch in (1, 3):
            models = {form: in_form(batch, tokens, form) for form in ("loop", "chunked")}
            took = times(models, inputs_of("mild", batch, tokens), options.rounds)
            errors = {form: error(Runner(model, threads=1).run, batch, tokens) for form, model in models.items()}
            rows.append(
                {
                    "tokens": tokens, "batch": batch, "chunk": default_chunk(tokens),
                    "nodes": len(models["chunked"].graph), "error_loop": errors["loop"],
                    "error_chunked": errors["chunked"], "loop_p50_ms": float(np.median(took["loop"])),
                    "chunked_p50_ms": float(np.median(took["chunked"])),
                    "ratio": float(np.median(took["chunked"] / took["loop"])),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def candidates(options: argparse.Namespace) -> list[dict[str, object]]:
    """197 tokens, one image: every way to write it, with the launches of its engine and the bytes that they move."""
    models = {form: in_form(1, 197, form) for form in ("loop", "chunked", *CANDIDATES)}
    for chunk in CHUNKS:
        models[f"chunks of {chunk}"] = lone_scan(1, 197)
        lower_scans(models[f"chunks of {chunk}"], "chunked", chunk)
    took = times(models, inputs_of("mild", 1, 197), options.rounds)
    rows = []
    for form, model in models.items():
        built = {name: value for name, value in build(model, "sm89").items() if name not in _LEFT_OUT}
        rows.append(
            {
                "form": form, "nodes": len(model.graph), "error": error(Runner(model, threads=1).run, 1, 197),
                "p50_ms": float(np.median(took[form])), "ratio": float(np.median(took[form] / took["loop"])), **built,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def compiled(options: argparse.Namespace) -> list[dict[str, object]]:
    """A compile of the whole model, engines aside."""
    rows = []
    for form in ("auto", "chunked"):
        with tempfile.TemporaryDirectory() as folder:
            words = ["compile", options.vim, "--keep", "0.8", "-t", "jetson-agx-orin-64gb", "--no-engine"]
            run = [sys.executable, "-m", "edgeprune", *words, "--scan", form, "-o", f"{folder}/out", "--quiet"]
            spent = cost_of(run)
            rows.append({"scan": form, **spent, "load": os.getloadavg()[0]})
            print(rows[-1], flush=True)
    return rows


def builds(options: argparse.Namespace) -> list[dict[str, object]]:
    """The whole dense model by TensorRT-RTX in both forms, and its modelled latency."""
    model = ir.load(options.vim)
    Canonicalize().apply(model)
    found, rows = len(selective_scans(model.graph)), []
    for form in options.forms.split(","):
        graph = standard_scans(model, "loop") if form == "loop" else model
        modelled = {name: estimate(graph, load_target(name)).p50_ms for name in MODELLED}
        for sm, name in TARGETS.items():
            target = load_target(name)
            lowered = lower(model, runtime_for(target, builder="tensorrt-rtx"), target, "fp16", scan=form)
            rows.append(
                {
                    "scan": form, "sm": sm, "scans": found, "gmacs": count_macs(model) / 1e9,
                    "nodes": len(lowered.model.graph), **build(lowered.model, sm), "modelled_ms": modelled,
                    "load": os.getloadavg()[0],
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def build(model: ir.Model, sm: str) -> dict[str, object]:
    """One engine, built in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        return cost_of([sys.executable, __file__, "--build", str(path), "--sm", sm], told=True)


def cost_of(command: list[str], *, told: bool = False) -> dict[str, object]:
    """Seconds, seconds of a processor and peak memory of a process and its children; what it printed, as JSON."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    text = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    spent = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
    }
    return {**spent, **(json.loads(text) if told else {})}


def build_here(path: Path, sm: str) -> None:
    """Build, and print what came of it and what the builder's own process took."""
    with tempfile.TemporaryDirectory() as folder:
        (made,) = RtxBuilder().build(path, [load_target(TARGETS[sm])], Path(folder), name="model")
        plan = Path(made.path).read_bytes() if made.path else b""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    moved = traffic(plan)
    told = {"build_s": made.seconds, "engine_mib": len(plan) / 2**20, "launches": len(moved)}
    told |= {"moved_mib": sum(moved) / 2**20, "peak_mib": used.ru_maxrss / 1024, "error": made.error}
    print(json.dumps(told))


TITLES = {
    "scans": "One scan of 384 channels and 16 states: ONNX Runtime, one thread; error at the worst extreme, both ways",
    "candidates": "197 tokens, one image: ways to write it, in ONNX Runtime and as an engine for SM89",
    "compile": "Vim-Tiny (24 blocks, 197 tokens), `compile --keep 0.8 --no-engine`",
    "builds": "Vim-Tiny, dense, fp16, by TensorRT-RTX; a loop's launches run once a token; latencies are modelled",
}
PARTS = {"scans": scans, "candidates": candidates, "compile": compiled, "builds": builds}


def cells(row: dict[str, object]) -> list[object]:
    """A row as people read it."""
    shown = (", ".join(f"{n} {ms:.3g}" for n, ms in v.items()) if isinstance(v, dict) else v for v in row.values())
    return list(shown)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--vim")
    parser.add_argument("--forms", default="chunked,loop", help="that engines are built of")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sm", default="sm89", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build is not None:
        build_here(options.build, options.sm)
        return
    path = RESULTS / "scan_forms.json"
    data = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        asked = options.parts.split(",")
        if options.vim is None and {"compile", "builds"} & set(asked):
            options.vim = f"{folder}/vim_tiny.onnx"
            words = ["export", "_vim_tiny:vim_tiny", options.vim, "--exporter", "torchscript"]
            shape = f"image:{'x'.join(map(str, SHAPE))}"
            subprocess.run([sys.executable, "-m", "edgeprune", *words, "--input", shape], check=True)
        for part in asked:
            found = PARTS[part](options)
            made = {row.get("scan") for row in found}
            kept = [row for row in data.get(part, []) if part == "builds" and row["scan"] not in made]
            data[part] = kept + found
    data["machine"] = machine(1)
    text = "# Selective scans: a loop and chunks\n\n`python benchmarks/bench_scan_forms.py`\n"
    for part, title in TITLES.items():
        if rows := data.get(part):
            text += f"\n## {title}\n\n" + markdown(list(rows[0]), map(cells, rows))
    write("scan_forms", data, text)


if __name__ == "__main__":
    main()
