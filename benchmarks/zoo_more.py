"""Export more real architectures than ../shared/zoo has, with random weights and few layers, for `benchmarks/zoo.py`.

    python benchmarks/zoo_more.py --out build/zoo-more [--only SUBSTR] [--deadline MINUTES] [--timeout SECONDS]

A file is named ARCHITECTURE__VARIANT.onnx: L17 is the tracing exporter at opset 17, D torch.export's at 20; s and d say
whether the batch is fixed, f and u whether attention is fused or written out. What is there is not exported again;
what an exporter cannot write is a line in `log.json`. Every export runs in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _zoo_models import ALL, ARCHITECTURES, THREADS, torch_on_one_thread


def main() -> None:
    """Export all, or one in this process with --one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/zoo-more"), help="onnx/ is made below it")
    parser.add_argument("--only", default="", help="architectures whose name contains this")
    parser.add_argument("--deadline", type=float, default=120, help="minutes for all")
    parser.add_argument("--timeout", type=float, default=300, help="seconds an export may take")
    parser.add_argument("--one", nargs=2, metavar=("ARCHITECTURE", "VARIANT"), help="one export, in this process")
    options = parser.parse_args()
    folder = options.out / "onnx"
    folder.mkdir(parents=True, exist_ok=True)
    if options.one:
        export(*options.one, folder)
        return
    end = time.monotonic() + 60 * options.deadline
    log_path = options.out / "log.json"
    log = json.loads(log_path.read_text()) if log_path.exists() else {}
    for name, wanted in jobs(options.only):
        for variant in (wanted, f"{wanted[:-1]}u"):  # what cannot be written fused is written out
            key = f"{name}__{variant}"
            if key not in log and time.monotonic() < end:
                log[key] = apart(name, variant, options.out, options.timeout)
                log_path.write_text(json.dumps(log, indent=1))
                print(f"{key:<40} {log[key] or 'done'}", flush=True)
            if not log.get(key):
                break


def jobs(only: str) -> Iterator[tuple[str, str]]:
    """Exports in the order in which they are made: first one of each architecture."""
    for place in range(len(ALL)):
        for name, architecture in ARCHITECTURES.items():
            if only in name and place < len(architecture.variants):
                yield name, architecture.variants[place]


def apart(name: str, variant: str, out: Path, timeout: float) -> str:
    """Export in another process; what went wrong, or nothing."""
    words = [sys.executable, __file__, "--out", str(out), "--one", name, variant]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return f"over {timeout:.0f} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.strip().splitlines() if "Error" in line or "ONNXRuntime" in line]
    return lines[-1][:200] if lines else f"exit code {done.returncode}"


def export(name: str, variant: str, folder: Path) -> None:
    """Write one export, checked against PyTorch in ONNX Runtime.

    Raises:
        RuntimeError: if the two differ.
    """
    torch = torch_on_one_thread()
    torch.manual_seed(0)
    architecture = ARCHITECTURES[name]
    batch, dynamic, dynamo = 1, variant[-2] == "d", variant.startswith("D")
    module = _seeded(architecture.build(variant[-1] == "f"))
    inputs = architecture.inputs(2 if dynamic and dynamo else batch)
    flat = _flat(module, architecture.read)
    settings: dict[str, Any] = {"input_names": list(inputs), "dynamo": dynamo, "opset_version": 20 if dynamo else 17}
    if dynamo:
        settings |= {"external_data": False, "verbose": False}
    if dynamic and dynamo:
        settings["dynamic_shapes"] = (tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),)
    elif dynamic:
        settings["dynamic_axes"] = {each: {0: "batch"} for each in inputs}
    with torch.no_grad():
        expected = flat(*inputs.values())
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        path = Path(scratch) / f"{name}__{variant}.onnx"
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(flat, tuple(inputs.values()), str(path), **settings)
        check(path, inputs, expected)
        path.replace(folder / path.name)


def check(path: Path, inputs: dict[str, Any], expected: Any) -> None:
    """Run an export in ONNX Runtime.

    Raises:
        RuntimeError: if it does not run, or differs from PyTorch.
    """
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = THREADS, 3
    session = runtime.InferenceSession(str(path), options)
    names = {each.name for each in session.get_inputs()}
    found = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in names})
    for output, tensor in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        worst, scale = float(np.abs(output - tensor.numpy()).max()), float(tensor.abs().max())
        if not worst <= 1e-3 * max(1.0, scale):
            msg = f"the export differs from PyTorch by {worst:.3g}, values reach {scale:.3g}"
            raise RuntimeError(msg)


def _seeded(module: Any) -> Any:
    """Evaluation mode; vectors are jittered, so that gains and biases are not one and zero."""
    torch = torch_on_one_thread()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return module.eval()


def _flat(module: Any, read: Callable[..., Any]) -> Any:
    """Tensors in, a tensor or a tuple of tensors out."""
    torch = torch_on_one_thread()

    class Flat(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Any) -> Any:
            return read(self.module, *tensors)

    return Flat().eval()


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": str(THREADS)}
    main()
