"""The deploy folder: all that a device needs to build the engines for itself, to time them and to run them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgeprune.core.digest import sha256_of
from edgeprune.core.errors import TargetError
from edgeprune_targets.operators import numbers_of
from edgeprune_targets.profiles import OLDEST_TENSORRT
from edgeprune_targets.runtimes import runtime_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeprune.core.plan import Precision
    from edgeprune_targets.profiles import Target

SCHEMA = 1
SUMS = "SHA256SUMS"
GUIDE = "language_side.md"
BUILD, BENCH, RUN = "build.sh", "bench.sh", "run.py"

_TEMPLATES = Path(__file__).parent / "deploy"
_SCRIPTS = (BUILD, BENCH, RUN)
_SHARED = ("common.sh", "sensors.awk")
_MIB = 1 << 20
_CARD = re.compile(r"\b(?:rtx-(?:pro-)?a?\d{4}(?:ti)?(?:-laptop)?|gb\d+|[a-z]\d{1,3}s?)\b")
# A build holds the weights several times over beside the CUDA context and the builder's own code. Both are estimates
# on the safe side of what small boards report; `--low-memory` passes over them.
_BUILDER_MIB, _COPIES_IN_MEMORY, _COPIES_ON_DISK, _SPARE_DISK_MIB = 1024, 4, 3, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contents:
    model: Path
    dense: Path | None
    reference: Path | None
    fp32_layers: Mapping[str, Sequence[str]]
    plan: bytes
    target: Target
    precision: Precision
    tensorrt: str
    source_sha256: str
    guide: str | None


def write_bundle(  # noqa: PLR0913 -- one argument for each thing in the folder
    folder: Path,
    model: Path,
    plan: bytes,
    target: Target,
    *,
    precision: Precision = "fp16",
    tensorrt: str = "",
    dense: Path | None = None,
    reference: Path | None = None,
    fp32_layers: Mapping[str, Sequence[str]] = MappingProxyType({}),
    source_sha256: str = "",
    guide: str | None = None,
) -> tuple[Path, ...]:
    """Write `folder` with the models, the plan, scripts that build, time and run, and their sums: whole or not at all.

    Args:
        folder: must not exist.
        model: the pruned graph as the device's TensorRT takes it; weights beyond 2 GB in `NAME.data` beside it.
        plan: bytes of plan.json.
        target: the device that will build.
        precision: of the graph's matrix products.
        tensorrt: version that the graph was lowered for; empty if it is for none in particular.
        dense: the graph before pruning, of the same precision; if given, both are timed.
        reference: `.npz` with arrays `input:NAME` and `output:NAME` to hold the engine's outputs against.
        fp32_layers: by 'model' and 'dense', nodes that a builder with weak typing must be held to fp32 for.
        guide: what a language model that reads the outputs must change, Markdown.
        source_sha256: of the model that was compiled, by which measured numbers find back to its report.

    Returns:
        The files, sorted by name.

    Raises:
        TargetError: if the folder exists, or cannot be written.
    """
    if folder.exists():
        msg = f"cannot write the deploy folder {folder}: it exists"
        raise TargetError(msg, hint="give a new folder, or use `--force`")
    contents = _Contents(
        model=model,
        dense=dense,
        reference=reference,
        fp32_layers=fp32_layers,
        plan=plan,
        target=target,
        precision=precision,
        tensorrt=tensorrt,
        source_sha256=source_sha256,
        guide=guide,
    )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".deploy-") as scratch:
            inner = Path(scratch) / "deploy"
            inner.mkdir()
            _fill(inner, contents)
            inner.replace(folder)
    except OSError as error:
        msg = f"cannot write the deploy folder {folder}: {error.strerror or error}"
        raise TargetError(msg, hint="free some space or choose another folder with `-o`") from error
    return tuple(sorted(folder.iterdir()))


def _fill(folder: Path, contents: _Contents) -> None:
    _copy_model(contents.model, folder / "model.onnx")
    if contents.dense is not None:
        _copy_model(contents.dense, folder / "dense.onnx")
    if contents.reference is not None:
        shutil.copyfile(contents.reference, folder / "reference.npz")
    for name, layers in contents.fp32_layers.items():
        if layers:
            _write(folder / f"{name}.fp32.txt", "".join(f"{layer}\n" for layer in layers))
    if contents.guide is not None:
        _write(folder / GUIDE, contents.guide)
    (folder / "plan.json").write_bytes(contents.plan)
    for name in _SCRIPTS + _SHARED:
        shutil.copyfile(_TEMPLATES / name, folder / name)
        (folder / name).chmod(0o755 if name in _SCRIPTS else 0o644)
    _write(folder / "target.json", _facts_json(folder, contents))
    _write(folder / "README.md", _readme(folder, contents))
    _write(folder / SUMS, "".join(f"{sha256_of(path)}  {path.name}\n" for path in sorted(folder.iterdir())))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _weights(model: Path) -> Path:
    """Where a graph of more than 2 GB has its weights."""
    return model.with_name(f"{model.name}.data")


def _mib(model: Path) -> float:
    return sum(path.stat().st_size for path in (model, _weights(model)) if path.exists()) / _MIB


def _copy_model(source: Path, place: Path) -> None:
    """The graph, and the file of its weights under the name by which the graph knows it."""
    shutil.copyfile(source, place)
    weights = _weights(source)
    if weights.exists():
        shutil.copyfile(weights, place.with_name(weights.name))


def _gpu_words(target: Target) -> str:
    """The card's name as its driver writes it, in lower case: 'rtx 4090' of 'rtx-4090', 'a100' of 'a100-40'."""
    found = None if target.jetpack else _CARD.search(target.name)
    return found.group().replace("-laptop", "laptop").replace("-", " ") if found else ""


def _facts_json(folder: Path, contents: _Contents) -> str:
    """What the scripts check, one field a line, since they read it with sed."""
    target = contents.target
    sizes = [_mib(path) for path in (contents.model, contents.dense) if path is not None]
    facts = {
        "schema": SCHEMA,
        "target": target.name,
        "description": target.description,
        "compute_capability": target.compute_capability,
        "gpu": _gpu_words(target),
        "board_memory_mib": round(1024 * target.memory_gb),
        "power_mode": target.power_mode,
        "jetpack": target.jetpack,
        "tensorrt": contents.tensorrt,
        "precision": contents.precision,
        "memory_mib": _BUILDER_MIB + round(_COPIES_IN_MEMORY * max(sizes)),
        "disk_mib": _SPARE_DISK_MIB + round(_COPIES_ON_DISK * sum(sizes)),
        "source_sha256": contents.source_sha256,
        "plan_sha256": hashlib.sha256(contents.plan).hexdigest(),
        "model_sha256": sha256_of(folder / "model.onnx"),
        "dense_sha256": sha256_of(folder / "dense.onnx") if contents.dense is not None else "",
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


_ABOUT = {
    "model.onnx": "the compiled model, {precision}",
    "dense.onnx": "the same before pruning, to compare",
    "model.fp32.txt": "nodes of `model.onnx` that must not run in fp16",
    "dense.fp32.txt": "the same of `dense.onnx`",
    "reference.npz": "inputs, and the outputs that ONNX Runtime gives for them",
    GUIDE: "what the language model that reads the outputs must change",
    "plan.json": "what was pruned",
    "target.json": "what the scripts check",
    "build.sh": "builds `model.engine`, which is what your application loads",
    "bench.sh": "times the engines",
    "run.py": "runs an engine on your inputs",
    SUMS: "checksums of all files",
}


def _readme(folder: Path, contents: _Contents) -> str:
    target = contents.target
    versions = contents.tensorrt or ", ".join(target.tensorrt)
    files = [
        f"| `{name}` | {about.format(precision=contents.precision)} |"
        for name, about in _ABOUT.items()
        if name == SUMS or (folder / name).exists()
    ]
    words = {
        "NAME": target.name,
        "DESCRIPTION": target.description,
        "FILES": "\n".join(files),
        "RUNTIME": f"TensorRT {versions}{_brought_by(contents)}",
        "TENSORRT": versions,
        "COMMANDS": "\n".join(f"    {command}" for command in _commands(contents)),
        "PAIRS": ", dense and pruned in turns," if contents.dense is not None else "",
    }
    text = (_TEMPLATES / "README.md").read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _brought_by(contents: _Contents) -> str:
    """The JetPack versions with the TensorRT that the graph was lowered for, in brackets; empty off Jetson."""
    target = contents.target
    rows = [row for row in target.software if numbers_of(row.tensorrt) >= numbers_of(OLDEST_TENSORRT)]
    if contents.tensorrt:
        wanted = numbers_of(contents.tensorrt)[:2]
        rows = [row for row in rows if numbers_of(runtime_for(target, row.tensorrt).version)[:2] == wanted]
    return f" (JetPack {', '.join(row.jetpack for row in rows)})" if rows else ""


def _commands(contents: _Contents) -> list[str]:
    power = ["sudo nvpmodel -q          # the power mode, see above", "sudo jetson_clocks        # keep the clocks up"]
    compare = " --compare reference.npz" if contents.reference is not None else ""
    return [
        f"sha256sum -c {SUMS}",
        *(power if contents.target.jetpack else []),
        f"./{BUILD}",
        f"./{BENCH}",
        f"python3 {RUN}{compare}",
    ]
