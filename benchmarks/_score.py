"""Logits of a graph on photographs, and how far they are from the dense ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image

MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


def photographs(folder: Path) -> list[Path]:
    """The photographs, in order of their class.

    Raises:
        SystemExit: if there are none.
    """
    found = sorted(folder.glob("*.jpg"))
    if not found:
        msg = f"no photographs in {folder}: the shared material lies beside the project"
        raise SystemExit(msg)
    return found


def pixels(path: Path) -> np.ndarray:
    """The middle 224x224 of a 256x256 photograph, normalised: [1,3,224,224]."""
    with Image.open(path) as photo:
        array = np.asarray(photo.convert("RGB"), dtype=np.float64)[16:240, 16:240] / 255
    return ((array - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)


def labels(paths: Sequence[Path]) -> np.ndarray:
    """Classes by the first word of the file names."""
    return np.array([int(path.name.split("_")[0]) for path in paths])


def session(model: Path, threads: int) -> ort.InferenceSession:
    """ONNX Runtime on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or it spins beside the one that is timed
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def logits(model: Path, paths: Sequence[Path], threads: int) -> np.ndarray:
    """[n,classes], one photograph at a time."""
    run = session(model, threads)
    name = run.get_inputs()[0].name
    return np.concatenate([run.run(None, {name: pixels(path)})[0] for path in paths])


def compared(found: np.ndarray, dense: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """KL(dense || found) in nats, agreement with the dense model and top-1, the latter two in percent."""
    return {
        "kl": float(divergences(dense, found).mean()),
        "agreement": float(100 * (found.argmax(-1) == dense.argmax(-1)).mean()),
        "top1": float(100 * (found.argmax(-1) == truth).mean()),
    }


def divergences(dense: np.ndarray, found: np.ndarray) -> np.ndarray:
    """KL(dense || found) in nats, one number a photograph."""
    p, q = _log_softmax(dense), _log_softmax(found)
    return np.asarray((np.exp(p) * (p - q)).sum(-1))


def interleaved(models: Sequence[Path], image: np.ndarray, *, threads: int, rounds: int) -> dict[str, list[float]]:
    """Latency of models run in turns in this process: medians in ms, and medians of the ratios to the first."""
    runs = [session(model, threads) for model in models]
    names = [run.get_inputs()[0].name for run in runs]
    took = np.empty((rounds + 3, len(runs)))
    for row in took:
        for i, (run, name) in enumerate(zip(runs, names, strict=True)):
            start = time.perf_counter()
            run.run(None, {name: image})
            row[i] = 1e3 * (time.perf_counter() - start)
    took = took[3:]  # the first ones pay for memory
    return {
        "p50_ms": np.median(took, axis=0).tolist(),
        "ratio": np.median(took / took[:, :1], axis=0).tolist(),
    }


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))
