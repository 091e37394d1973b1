"""What all builders share: one engine a capability, staged by a child and delivered with its manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.core.digest import sha256_of
from edgeprune.core.errors import TargetError
from edgeprune.core.results import EngineBuild
from edgeprune.core.whole import deliver, staging
from edgeprune_targets.builders import plan_text
from edgeprune_targets.builders._child import Answer, run_jobs
from edgeprune_targets.builders.layer_info import LayerInfo, read_layer_info
from edgeprune_targets.builders.manifest import (
    Manifest,
    Tensor,
    edgeprune_version,
    libraries,
    manifest_path,
    to_bytes,
)
from edgeprune_targets.builders.protocol import Origin

if TYPE_CHECKING:
    from edgeprune_targets.profiles import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One call of a builder.

    Attributes:
        builder: its name.
        words: how messages and reports name the library.
        packages: prefixes of the names of its packages.
        request: for the child, what all jobs share beside the graph.
        job: for the child, what is one capability's own.
        file: name of the engine of one target.
        name: stem of the files.
        attentions: in the graph.
        origin: where the graph comes from.
        timeout_s: of one engine.
        device_bound: whether an engine is for one compute capability.
        options: for the manifest.
        milder: requests to try in turn where the library crashed over the first.
    """

    builder: str
    words: str
    packages: tuple[str, ...]
    request: Answer
    job: Callable[[Target], Answer]
    file: Callable[[Target], str]
    attentions: int | None
    origin: Origin
    timeout_s: float
    device_bound: bool = True
    options: dict[str, str | int] = field(default_factory=dict)
    milder: tuple[Answer, ...] = ()

    def failed(self, target: Target, error: str) -> EngineBuild:
        """No engine, and why."""
        return EngineBuild(
            target=target.name,
            builder=self.builder,
            compute_capability=target.compute_capability,
            built=False,
            attentions=self.attentions,
            error=error,
        )


def build_all(
    order: Order, model: Path | bytes, targets: Sequence[Target], folder: Path, why_not: Callable[[Target], str | None]
) -> list[EngineBuild]:
    """One result a target, in their order; targets that would get the same file share it."""
    done: dict[str, EngineBuild] = {}
    todo: dict[str, Target] = {}
    for target in targets:
        key = order.file(target)
        if key in done or key in todo:
            continue
        if reason := why_not(target):
            done[key] = order.failed(target, reason)
        else:
            todo[key] = target
    if todo:
        done |= dict(zip(todo, _build(order, model, list(todo.values()), folder), strict=True))
    return [
        replace(done[order.file(target)], target=target.name, compute_capability=target.compute_capability)
        for target in targets
    ]


def _build(order: Order, model: Path | bytes, targets: list[Target], folder: Path) -> list[EngineBuild]:
    try:
        with staging(folder) as scratch:
            onnx = _as_file(model, scratch)
            jobs = [
                {"engine": str((scratch / order.file(target)).resolve()), **order.job(target)} for target in targets
            ]
            answers = _answers(order, {"onnx": str(onnx)}, jobs)
            built = any(answer["error"] is None for answer in answers)
            digest = sha256_of(onnx, *(_outside(onnx) if isinstance(model, Path) else ())) if built else ""
            return [
                _delivered(order, target, answer, scratch, folder, digest)
                for target, answer in zip(targets, answers, strict=True)
            ]
    except OSError as error:
        reason = f"cannot write to {folder}: {error.strerror or error}"
        return [order.failed(target, reason) for target in targets]


def _answers(order: Order, graph: Answer, jobs: list[Answer]) -> list[Answer]:
    answers = run_jobs(order.words, order.request | graph, jobs, order.timeout_s)
    for milder in order.milder:
        crashed = [number for number, answer in enumerate(answers) if answer.get("crashed")]
        if not crashed:
            break
        again = run_jobs(
            order.words, order.request | graph | milder, [jobs[number] for number in crashed], order.timeout_s
        )
        for number, answer in zip(crashed, again, strict=True):
            answers[number] = answer
    return answers


def _as_file(model: Path | bytes, scratch: Path) -> Path:
    if isinstance(model, Path):
        return model.resolve()
    path = scratch / "model.onnx"
    path.write_bytes(model)
    return path.resolve()


def _outside(onnx: Path) -> list[Path]:
    """Files that the graph keeps weights in beside itself."""
    import onnx_ir as ir

    weights = (value.const_value for value in ir.load(onnx).graph.initializers.values())
    return sorted({Path(weight.path) for weight in weights if isinstance(weight, ir.ExternalTensor)})


def _delivered(order: Order, target: Target, answer: Answer, scratch: Path, folder: Path, digest: str) -> EngineBuild:
    if answer["error"] is not None:
        return order.failed(target, answer["error"])
    staged, path = scratch / order.file(target), folder / order.file(target)
    manifest = _manifest(order, target, answer, staged, digest)
    note = manifest_path(staged)
    files = {manifest_path(path): note}
    layers = staged.with_name(staged.name + ".layers")
    if layers.exists():
        files[path.with_name(path.name + ".layers.json")] = layers
    try:
        note.write_bytes(to_bytes(manifest))
        deliver(files | {path: staged})
    except OSError as error:
        return order.failed(target, f"cannot write {path}: {error.strerror or error}")
    return replace(
        order.failed(target, ""),
        built=True,
        error=None,
        path=str(path),
        manifest=str(manifest_path(path)),
        runtime=f"{order.words} {'.'.join(manifest.builder_version.split('.')[:3])}",
        bytes=manifest.bytes,
        sha256=manifest.engine_sha256,
        kernels=manifest.kernels,
        fused_attentions=manifest.fused_attentions,
        seconds=manifest.seconds,
    )


def _manifest(order: Order, target: Target, answer: Answer, staged: Path, digest: str) -> Manifest:
    return Manifest(
        edgeprune=edgeprune_version(),
        builder=order.builder,
        builder_version=answer["version"],
        libraries=libraries(order.packages),
        compute_capability=target.compute_capability if order.device_bound else "",
        lowered_for=order.origin.runtime,
        typing=answer["typing"],
        options=order.options | answer.get("options", {}),
        onnx_sha256=digest,
        plan_sha256=order.origin.plan_sha256,
        engine_sha256=sha256_of(staged),
        bytes=staged.stat().st_size,
        attentions=order.attentions,
        inputs=tuple(Tensor(**each) for each in map(_tensor, answer["inputs"])),
        outputs=tuple(Tensor(**each) for each in map(_tensor, answer["outputs"])),
        seconds=answer["seconds"],
        **_seen_inside(order, staged),
    )


def _tensor(raw: Answer) -> Answer:
    return {"name": raw["name"], "dtype": raw["dtype"], "shape": tuple(raw["shape"])}


def _seen_inside(order: Order, staged: Path) -> dict[str, Any]:
    """What the engine tells of its kernels, by its inspector or by its bytes; None where it tells nothing."""
    layers = _layers_of(staged)
    if layers is not None:
        seen = (layers.kernels, len(layers.layers), layers.fused_attentions)
    else:
        plan = staged.read_bytes() if order.device_bound else b""
        names = plan_text.kernel_names(plan)
        fused = plan_text.count_fused_attentions(plan)
        seen = (len(names), len(plan_text.launches(plan)), fused)
    if not seen[0]:
        return {"kernels": None, "launches": None, "fused_attentions": None}
    return {"kernels": seen[0], "launches": seen[1] or None, "fused_attentions": seen[2]}


def _layers_of(staged: Path) -> LayerInfo | None:
    try:
        info = read_layer_info(staged.with_name(staged.name + ".layers").read_bytes())
    except (FileNotFoundError, TargetError):  # not asked for, or in words that are not known
        return None
    return info if info.layers else None
