"""Dense against pruned on the NVIDIA device that is here, by the machinery of `edgeprune bench`.

    python benchmarks/gpu_pairs.py [--models deit_tiny_patch16_224,vit_base_patch16_224] [--batches 1,8,32]
        [--strategies uniform,cls-topk,importance-merge] [--macs 0.65,0.5] [--precision fp16] [--rounds 50]

Times every runtime that runs here: ONNX Runtime on CUDA, TensorRT, TensorRT-RTX, and PyTorch in a CUDA graph, which is
there where nothing else is. Models are timm's with random weights, or ONNX files: latency does not depend on weights.
Writes `benchmarks/results/gpu_pairs_DEVICE.json` and `.md`; ends with a sentence where there is no device.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _results import machine, markdown, write

import edgeprune
from edgeprune.compiler.timing.benching import Measurement, measure
from edgeprune.compiler.timing.contenders import feeds_for, open_contenders
from edgeprune.compiler.timing.lacks import Lack
from edgeprune.compiler.timing.runners import Choice, choose_runtimes
from edgeprune.core.progress import SILENT
from edgeprune_targets.precision import to_fp16

if TYPE_CHECKING:
    import onnx_ir as ir
    from _torch_graph import TorchGraph

    from edgeprune.report.benched import BenchReport, BenchRow

COLUMNS = (
    "model", "batch", "strategy", "macs_ratio", "runtime", "precision", "dense_p50_ms", "pruned_p50_ms", "speedup",
    "low_80", "high_80", "sm_clock_mhz", "power_w", "error",
)  # fmt: skip
MODELS = "deit_tiny_patch16_224,vit_base_patch16_224"


@dataclass(frozen=True)
class TorchOpened:
    """A graph in PyTorch."""

    graph: TorchGraph

    def run(self, feeds: Any) -> Any:
        """Run once, for its outputs."""
        return self.graph.run(feeds)

    def timed(self, feeds: Sequence[Any]) -> Any:
        """Time replays of the captured graph by the device's clock."""
        return lambda run: self.graph.sample_ms(feeds[run % len(feeds)])

    def close(self) -> None:
        """Nothing: memory goes with the object."""


@dataclass(frozen=True)
class TorchRuntime:
    """PyTorch, as `edgeprune bench` wants a runtime."""

    name: str = "pytorch-cuda"
    on_gpu: bool = True
    timed: str = "the device's own clock around the replay of a CUDA graph, without copies"

    def lacks(self, _: object) -> Lack | None:
        """Why it does not run here."""
        try:
            import torch
        except ImportError:
            return Lack("PyTorch is not installed", 'pip install "edgeprune[torch]"')
        return None if torch.cuda.is_available() else Lack("this PyTorch has no CUDA", "install one that has")

    def precision(self, asked: Any) -> Any:
        """Fp16 if nothing was asked for."""
        return asked or "fp16"

    def version(self) -> str:
        """With its name."""
        import torch

        return f"PyTorch {torch.__version__}"

    def open(self, model: ir.Model, precision: str, threads: int, stack: ExitStack) -> TorchOpened:  # noqa: ARG002 (the protocol's)
        """Put the typed graph on the device."""
        from _torch_graph import TorchGraph

        return TorchOpened(TorchGraph(to_fp16(model) if precision == "fp16" else model, "cuda"))


def runtimes_here() -> Choice:
    """What runs on the device that is here.

    Raises:
        SystemExit: if there is no device, or nothing that runs on it.
    """
    choice = choose_runtimes(())
    if choice.device is None:
        msg = "no NVIDIA device here: run this on a machine with one and its driver; nothing was measured"
        raise SystemExit(msg)
    ours = TorchRuntime()
    found = (*(runtime for runtime in choice.runtimes if runtime.on_gpu), *(() if ours.lacks(None) else (ours,)))
    if not found:
        msg = f"nothing runs on {choice.device.name}: install onnxruntime-gpu, tensorrt, or a PyTorch with CUDA"
        raise SystemExit(msg)
    return replace(choice, runtimes=found)


def dense_model(name: str, work: Path, batch: int) -> Path:
    """An ONNX file as it is, or timm's model exported."""
    if name.endswith(".onnx"):
        return Path(name)
    path = work / f"{name}-b{batch}.onnx"
    if not path.exists():
        edgeprune.export(f"timm:{name}", path, batch=batch)
    return path


def rows(options: argparse.Namespace, choice: Choice) -> Iterator[dict[str, object]]:
    """One row for each model, batch, strategy, budget and runtime, as they come."""
    for name in options.models.split(","):
        for batch in map(int, options.batches.split(",")):
            dense = dense_model(name, options.work, batch)
            for strategy in options.strategies.split(","):
                for macs in map(float, options.macs.split(",")):
                    out = options.work / f"{dense.stem}-b{batch}-{strategy}-{macs}"
                    asked = edgeprune.Options(
                        strategy=strategy, batch=batch, force=True, engine=False, precision=options.precision
                    )
                    edgeprune.compile(dense, macs=macs, out=out, options=asked)
                    report = measured(dense, out, asked, options.rounds, choice)
                    first = {"model": dense.stem, "batch": batch, "strategy": strategy}
                    yield from ({**first, **figures(report, row)} for row in report.rows)


def measured(dense: Path, out: Path, options: edgeprune.Options, rounds: int, choice: Choice) -> BenchReport:
    """What `edgeprune bench DENSE OUT` does, with PyTorch as a further runtime."""
    contenders = open_contenders(dense, out, options)
    feeds, data = feeds_for(contenders[0], options)
    bench = Measurement(contenders, feeds, choice.device, rounds=rounds, warm_up=20, options=options)
    return measure(bench, replace(choice, lacking={}), data, SILENT)


def figures(report: BenchReport, row: BenchRow) -> dict[str, object]:
    """The columns of one runtime."""
    dense, pruned = report.models
    told: dict[str, object] = {
        "macs_ratio": pruned.macs / dense.macs,
        "runtime": row.version or row.runtime,
        "precision": row.precision,
        "error": row.error,
    }
    if row.ratio is None:
        return told
    seen = {name: row.sensed.values[name].median for name in ("sm_clock_mhz", "power_w") if name in row.sensed.values}
    times = {
        f"{model.role}_{name}": getattr(model.timing, name)
        for model in row.models
        for name in ("p50_ms", "p90_ms", "p99_ms")
    }
    errors = {f"{model.role}_relative_error": model.check.relative_error for model in row.models}
    ratio = {name: getattr(row.ratio, name) for name in ("low_80", "high_80", "low_95", "high_95")}
    warnings = [warning for warning in report.warnings if warning.startswith(f"{row.runtime}:")]
    return told | times | {"speedup": row.ratio.median} | ratio | seen | errors | {"warnings": warnings}


def main() -> None:
    """Measure, print each row as it comes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS, help="timm names or ONNX files, with commas")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--strategies", default="uniform,cls-topk,importance-merge")
    parser.add_argument("--macs", default="0.65,0.5")
    parser.add_argument("--precision", default="fp16", choices=("fp16", "fp32"))
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--work", type=Path, default=Path("build/gpu_pairs"), help="folder for models and compiles")
    options = parser.parse_args()
    choice = runtimes_here()
    assert choice.device is not None
    options.work.mkdir(parents=True, exist_ok=True)
    found = []
    for row in rows(options, choice):
        print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
        found.append(row)
    name = choice.device.name
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")
    how = f"Medians of {options.rounds} interleaved rounds; `low_80` and `high_80` hold the speedup at 80 %."
    head = f"# Dense against pruned on {name}\n\n{how}\n\n"
    table = markdown(COLUMNS, [[row.get(column) for column in COLUMNS] for row in found])
    write(f"gpu_pairs_{slug}", {"device": name, "machine": machine(), "rows": found}, head + table)


if __name__ == "__main__":
    main()
