"""Tokens that leave for a language model: the right ones, at what cost, and whether engines keep attention fused.

    python benchmarks/bench_vlm.py [--parts tokens,latency,engines] [--depth 3] [--threads 2]

LLaVA's and SigLIP's towers at true architecture, random weights, no downloads. `tokens` and `engines` of all strategies
use towers of `--depth` blocks of true size, which the choice cannot tell from deep ones; `latency`, and engines of one
strategy, the full depth. Writes `benchmarks/results/vlm.json` and `.md`; parts that are not run keep their old rows.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _results import RESULTS, machine, markdown, write
from _vlm_models import INPUT, OUTPUT, TOWERS, Tower, build, export, pixels, seen

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))  # the PyTorch formulas that tests use too

STRATEGIES = ("fopru-rank", "fopru-row", "divprune", "visionzip", "holov")
SHARES = (0.25, 0.1)
NO_TIE = 3e-6  # PyTorch and ONNX Runtime differ by some 1e-7 of a score
COLUMNS = {
    "tokens": ("tower", "exporter", "batch", "strategy", "kept", "equal", "gap", "max_abs_error", "projector_macs"),
    "latency": ("tower", "strategy", "kept", "dense_ms", "choice_ms", "choice_share", "whole_ratio", "macs_ratio"),
    "engines": ("tower", "blocks", "strategy", "kept", "target", "built", "attentions", "fused", "seconds", "error"),
}


def canonical(path: Path, batch: int) -> Any:
    """A graph in canonical form."""
    from edgeprune.core.loading import read_model
    from edgeprune_passes.canonicalize import Canonicalize

    model = read_model(path).model.clone()
    Canonicalize(batch=batch).apply(model)
    return model


def reduced(dense: Any, strategy: str, keep: int) -> Any:
    """The graph with fewer tokens leaving."""
    from edgeprune.core.plan import OutputCut, Plan, StrategySpec
    from edgeprune.core.recognition import recognize
    from edgeprune_passes.apply import apply_plan

    found = recognize(dense)
    plan = Plan(
        model_sha256="",
        inputs={},
        patch_tokens=found.found.tokens - found.found.prefix,
        prefix_tokens=found.found.prefix,
        blocks=len(found.blocks),
        output=OutputCut(keep=keep, strategy=StrategySpec(name=strategy)),
    )
    model = dense.clone()
    apply_plan(model, plan)
    return model


def count_of(tower: Tower, strategy: str, share: float) -> int:
    """Tokens that leave; whole rows for the strategy of rows."""
    keep = round(share * tower.patches)
    return max(1, round(keep / tower.grid[1])) * tower.grid[1] if strategy == "fopru-row" else keep


def tokens(tower: Tower, depth: int, threads: int, work: Path) -> list[dict[str, Any]]:
    """Each strategy against the same formula in PyTorch, index for index, on the first input without a near-tie."""
    import torch
    from reference.leaving import STRATEGIES as FORMULAS

    from edgeprune_calibration.runner import Runner

    module, rows = build(tower, depth), []
    for batch in (1, 4):
        inputs = [pixels(tower, batch, seed) for seed in range(4)]
        views = [seen(tower, module, feed) for feed in inputs]
        for exporter in ("torchscript", "dynamo"):
            dense = canonical(export(tower, module, work / "tower.onnx", exporter, batch), batch)
            for strategy in STRATEGIES:
                for share in SHARES:
                    keep = count_of(tower, strategy, share)
                    wanted = [FORMULAS[strategy](view, keep) for view in views]
                    best = max(range(len(wanted)), key=lambda i: wanted[i].gap)
                    model = reduced(dense, strategy, keep)
                    found = Runner(model, threads=threads).run({INPUT: inputs[best]})
                    with torch.no_grad():
                        expected = module.projector(wanted[best].x).numpy()
                    row = {
                        "tower": tower.name, "exporter": exporter, "batch": batch, "strategy": strategy,
                        "kept": f"{keep} of {tower.patches}", "gap": wanted[best].gap,
                        "equal": bool(np.array_equal(found["kept_indices"], wanted[best].kept.numpy())),
                        "max_abs_error": float(np.abs(found[OUTPUT] - expected).max()),
                        "projector_macs": projector_macs(dense, model),
                    }  # fmt: skip
                    if wanted[best].gap < NO_TIE:
                        row["equal"] = None
                    rows.append(row)
                    print(row, flush=True)
    return rows


def projector_macs(dense: Any, model: Any) -> float:
    """MACs of the projector's products, of those of the dense graph."""
    from edgeprune.core.costs import node_macs
    from edgeprune.core.readout import ReadOut, find_readout
    from edgeprune.core.recognition import recognize

    readout = find_readout(dense, recognize(dense))
    assert isinstance(readout, ReadOut)
    names = {node.name for node in readout.projector}
    left = [node for node in model.graph if node.name in names]
    assert len(left) == len(readout.projector)
    return sum(map(node_macs, left)) / sum(map(node_macs, readout.projector))


def latency(tower: Tower, threads: int, work: Path, keep: int = 64, rounds: int = 3) -> list[dict[str, Any]]:
    """What choosing costs in ONNX Runtime: the operators that were written, alone, and the whole in turn with dense."""
    from edgeprune.core.costs import count_macs
    from edgeprune_calibration.runner import Runner

    dense = canonical(export(tower, build(tower, tower.depth), work / "tower.onnx", "torchscript", 1), 1)
    feed, rows = {INPUT: pixels(tower, 1, 0)}, []
    base = Runner(dense, threads=threads)
    for strategy in ("divprune", "fopru-rank", "visionzip", "holov"):
        model = reduced(dense, strategy, keep)
        whole = Runner(model, threads=threads)
        choice = Runner(choosing(model), threads=threads)
        inner = {spec.name: np.random.default_rng(0).standard_normal(spec.shape, np.float32) for spec in choice.inputs}
        times: dict[str, list[float]] = {"dense": [], "whole": [], "choice": []}
        for _ in range(rounds):
            for name, runner, given in (("dense", base, feed), ("whole", whole, feed), ("choice", choice, inner)):
                for _ in range(5 if name == "choice" else 1):
                    start = time.perf_counter()
                    runner.run(given)
                    times[name].append((time.perf_counter() - start) * 1e3)
        dense_ms, choice_ms = median(times["dense"][1:]), median(times["choice"][5:])
        rows.append(
            {
                "tower": tower.name, "strategy": strategy, "kept": f"{keep} of {tower.patches}", "dense_ms": dense_ms,
                "choice_ms": choice_ms, "choice_share": choice_ms / dense_ms,
                "whole_ratio": median(times["whole"][1:]) / dense_ms,
                "macs_ratio": count_macs(model) / count_macs(dense),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
        del whole, choice, model
        gc.collect()
    return rows


def choosing(model: Any) -> Any:
    """The operators that were written alone, with what they read as inputs and the kept rows as outputs."""
    import onnx_ir as ir

    copy = model.clone()
    own = [node for node in copy.graph if (node.name or "").startswith("edgeprune/")]
    inside = {value for node in own for value in node.outputs}
    read = [v for node in own for v in node.inputs if v is not None and v not in inside and v.producer() is not None]
    ends = [value for value in inside if any(user not in own for user, _ in value.uses()) or value.is_graph_output()]
    swaps = {v: ir.Value(name=f"{v.name}/in", shape=v.shape, type=v.type) for v in dict.fromkeys(read)}
    for node in own:
        for i, value in enumerate(node.inputs):
            if value in swaps:
                node.replace_input_with(i, swaps[value])
    copy.graph.inputs[:] = list(swaps.values())
    copy.graph.outputs[:] = ends
    from onnx_ir.passes import common

    common.RemoveUnusedNodesPass()(copy)
    return copy


def engines(tower: Tower, depth: int, strategies: tuple[str, ...], work: Path) -> list[dict[str, Any]]:
    """TensorRT-RTX engines for SM86 and SM89, and how many attentions of the tower they fuse."""
    import onnx_ir as ir

    from edgeprune.core.recognition import recognize
    from edgeprune_targets.attentions import count_attentions
    from edgeprune_targets.builders.tensorrt_rtx import RtxBuilder
    from edgeprune_targets.lowering import lower
    from edgeprune_targets.profiles import load_targets
    from edgeprune_targets.runtimes import runtime_for

    targets = load_targets("rtx-3060,rtx-4090")
    dense, rows = canonical(export(tower, build(tower, depth), work / "tower.onnx", "torchscript", 1), 1), []
    gc.collect()
    for strategy in strategies:
        keep = count_of(tower, strategy, 0.25) if strategy != "divprune" else 64
        model = reduced(dense, strategy, keep)
        lowered = lower(model, runtime_for(targets[0], builder="tensorrt-rtx"), targets[0], "fp16")
        path = work / "model.onnx"
        ir.save(lowered.model, path)
        for made in RtxBuilder().build(path, targets, work, name="vlm", attentions=count_attentions(model)):
            rows.append(
                {
                    "tower": tower.name, "blocks": len(recognize(dense).blocks), "strategy": strategy,
                    "kept": f"{keep} of {tower.patches}", "target": f"{made.target} (SM{made.compute_capability})",
                    "built": made.built, "attentions": made.attentions, "fused": made.fused_attentions,
                    "seconds": made.seconds, "error": made.error,
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """The parts that were asked for; the others as they were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="tokens,latency,engines")
    parser.add_argument("--towers", default="clip,siglip")
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    place = RESULTS / "vlm.json"
    old = json.loads(place.read_text()) if place.exists() else {}
    rows: dict[str, list[dict[str, Any]]] = {part: list(old.get(part, [])) for part in COLUMNS}
    chosen = [tower for tower in TOWERS if tower.kind in options.towers.split(",")]
    for part in options.parts.split(","):
        for tower in chosen:
            rows[part] = [row for row in rows[part] if row["tower"] != tower.name]
            with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
                work = Path(folder)
                if part == "tokens":
                    rows[part] += tokens(tower, options.depth, options.threads, work)
                if part == "latency":
                    rows[part] += latency(tower, options.threads, work)
                if part == "engines":
                    rows[part] += engines(tower, options.depth, STRATEGIES, work)
                    rows[part] += engines(tower, tower.depth, ("divprune",), work)
            gc.collect()
    write("vlm", {"machine": machine(options.threads), **rows}, page(rows))


def page(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Tables, with what was asked of them."""
    equal = [row["equal"] for row in rows["tokens"] if row["equal"] is not None]
    said = {
        "tokens": f"Chosen tokens, index for index as in PyTorch: {sum(equal)} of {len(equal)} without a near-tie.",
        "latency": "What choosing 64 tokens adds to the tower in ONNX Runtime, measured: `choice_share` of its time.",
        "engines": "Attentions that TensorRT-RTX fuses, of those of the tower.",
    }
    tables = (
        f"{said[part]}\n\n" + markdown(columns, [[row.get(c) for c in columns] for row in rows[part]])
        for part, columns in COLUMNS.items()
        if rows[part]
    )
    return "# Tokens that leave for a language model\n\n" + "\n".join(tables)


if __name__ == "__main__":
    main()
