"""The one place where benchmarks call edgeprune, so that a change of its interface is a change of one file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeprune.core.plan import Plan, StrategySpec, TokenCut
from edgeprune.core.recognition import recognize
from edgeprune.core.refusals import Refusal
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.reduce_tokens import ReduceTokens

if TYPE_CHECKING:
    from collections.abc import Mapping

STRATEGIES = (
    "random",
    "uniform",
    "cls-topk",
    "mean-attention",
    "zero-tprune",
    "tome",
    "prune-merge",
    "importance-merge",
)


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What one compile left in its folder."""

    folder: Path
    macs_ratio: float
    strategy: str
    report: dict[str, object]

    @property
    def model(self) -> Path:
        """The pruned graph."""
        return self.folder / "model.onnx"


@dataclass(frozen=True, kw_only=True)
class OneCut:
    """A dense canonical graph, the same with one cut, and what was done."""

    dense: ir.Model
    pruned: ir.Model
    plan: Plan
    at: tuple[str, ...]


def compile_model(model: Path, out: Path, options: Mapping[str, object]) -> Compiled:
    """Run `edgeprune compile` as a user would; options by their long names, True and False for flags."""
    words = ["compile", str(model), "-o", str(out), "--force"]
    for name, value in options.items():
        words += [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    _run(words)
    report = json.loads((out / "report.json").read_text())
    return Compiled(
        folder=out,
        macs_ratio=report["pruned"]["macs"] / report["model"]["macs"],
        strategy=report["strategy"]["name"],
        report=report,
    )


def export_model(source: str, out: Path) -> None:
    """Run `edgeprune export`."""
    _run(["export", source, str(out)])


def _run(words: list[str]) -> None:
    """Run the command line.

    Raises:
        RuntimeError: with what the command wrote, if it fails.
    """
    done = subprocess.run([sys.executable, "-m", "edgeprune", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or done.stdout.strip())


def declared(model: ir.Model, batch: int) -> dict[str, tuple[int, ...]]:
    """Shapes for inputs that leave more open than the batch: those that the zoo's exporter traced with."""
    usual = {2: (batch, 32), 4: (batch, 3, 224, 224)}
    shapes = {str(value.name): value.shape for value in model.graph.inputs if value.shape is not None}
    return {
        name: usual[len(shape)]
        for name, shape in shapes.items()
        if len(shape) in usual and any(not isinstance(dim, int) for dim in list(shape)[1:])
    }


def cut_once(path: Path, *, batch: int, keep: float = 0.6) -> OneCut | Refusal:
    """Cut after the attention of block L//3 (or the next block that can be cut), with random indices."""
    model = ir.load(path)
    Canonicalize(declared(model, batch), batch).apply(model)
    found = recognize(model)
    if found.stream is None:
        return found.refusals[0]
    block = next(b for b in found.blocks[len(found.blocks) // 3 :] + found.blocks if b.cut is not None)
    patches = found.stream.tokens - found.stream.prefix
    cut = TokenCut(block=block.index, keep=max(1, round(keep * patches)), strategy=StrategySpec(name="random"))
    plan = Plan(
        model_sha256="",
        inputs={str(v.name): tuple(int(d) for d in v.shape) for v in model.graph.inputs if v.shape is not None},
        patch_tokens=patches,
        prefix_tokens=found.stream.prefix,
        blocks=len(found.blocks),
        cuts=(cut,),
    )
    at = str(block.cut.name) if block.cut is not None else ""
    pruned = model.clone()
    ReduceTokens(plan.cuts, plan.restore).apply(pruned)
    return OneCut(dense=model, pruned=pruned, plan=plan, at=(at,))
