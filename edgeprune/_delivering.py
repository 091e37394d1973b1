"""Write the output folder: whole or not at all."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeprune.core.errors import EdgepruneError, PlanError
from edgeprune.core.results import EngineBuild, Latency
from edgeprune.core.saving import save_model
from edgeprune_targets.attentions import count_attentions
from edgeprune_targets.builders.tensorrt_rtx import RtxBuilder
from edgeprune_targets.bundle import write_bundle
from edgeprune_targets.latency import model_latency_ms
from edgeprune_targets.precision import to_fp16

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeprune.core.plan import Precision
    from edgeprune.core.progress import Progress
    from edgeprune_targets.profiles import Target


@contextmanager
def output_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """A folder to fill, which takes the place of `out` when the work is done and vanishes if it fails.

    Raises:
        PlanError: if `out` exists and `force` is not set.
        EdgepruneError: if the disk is full or the place cannot be written.
    """
    check_free(out, force=force)
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            made = Path(scratch) / "new"
            made.mkdir()
            yield made
            if out.exists():
                out.rename(Path(scratch) / "old")
            made.rename(out)
    except OSError as error:
        msg = f"cannot write {out}: {error.strerror or error}"
        raise EdgepruneError(msg, hint="free some space, or choose another folder with -o") from error


def check_free(out: Path, *, force: bool) -> None:
    """Check that an output folder may be written, before any work is done for it.

    Raises:
        PlanError: if it exists and `force` is not set, or is no folder.
    """
    if out.is_file():
        msg = f"the output {out} is a file, expected a folder"
        raise PlanError(msg, hint="choose another name with -o")
    if out.exists() and not force:
        msg = f"the output folder {out} exists"
        raise PlanError(msg, hint="give --force to replace it, or another folder with -o")


def typed(model: ir.Model, precision: Precision, target: Target) -> ir.Model:
    """The graph as an engine wants it: strongly typed."""
    return to_fp16(model, fp32_products=target.fp32_products) if precision == "fp16" else model


def build_engines(
    pruned: ir.Model, targets: Sequence[Target], precision: Precision, folder: Path, progress: Progress
) -> list[EngineBuild]:
    """Build what can be built on this machine; what cannot says why."""
    builder = RtxBuilder()
    lacking = builder.lacking()
    results = []
    with progress.stage("build engines", len(targets)) as stage:
        for target in targets:
            if builder.name not in target.builders:
                results.append(_elsewhere(target))
            elif lacking:
                results.append(_failed(target, builder.name, lacking))
            else:
                results.append(_build(builder, pruned, target, precision, folder))
            stage.advance(1)
    return results


def _build(builder: RtxBuilder, pruned: ir.Model, target: Target, precision: Precision, folder: Path) -> EngineBuild:
    graph = typed(pruned, precision, target)
    attentions = count_attentions(graph)
    built = builder.build(
        ir.to_proto(graph).SerializeToString(), [target], folder, name="model", attentions=attentions
    )[0]
    return replace(built, path=str(Path("engine") / Path(built.path).name) if built.path else None)


def _elsewhere(target: Target) -> EngineBuild:
    reason = f"an engine for {target.name} is built on the device: copy deploy/ there and run build.sh"
    return _failed(target, target.runtime, reason)


def _failed(target: Target, builder: str, reason: str) -> EngineBuild:
    return EngineBuild(
        target=target.name, builder=builder, compute_capability=target.compute_capability, built=False, error=reason
    )


def modelled(dense: ir.Model, pruned: ir.Model, targets: Sequence[Target], precision: Precision) -> list[Latency]:
    """Latencies from the model of each target, dense against pruned."""
    rows = []
    for target in targets:
        before = model_latency_ms(dense, target, precision)
        after = model_latency_ms(pruned, target, precision)
        rows.append(
            Latency(
                target=target.name,
                kind="modelled",
                dense_p50_ms=before,
                pruned_p50_ms=after,
                speedup=before / after,
                method=f"roofline by kernel, {precision}, batch as compiled",
            )
        )
    return rows


def bundle(
    folder: Path, dense: ir.Model, pruned: ir.Model, plan_json: bytes, targets: Sequence[Target], precision: Precision
) -> None:
    """`deploy/`, or `deploy/TARGET/` where several devices build for themselves."""
    here = [target for target in targets if target.runtime == "tensorrt"]
    for target in here:
        place = folder / "deploy" if len(here) == 1 else folder / "deploy" / target.name
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            paths = []
            for name, model in (("model", pruned), ("dense", dense)):
                path = Path(scratch) / f"{name}.onnx"
                save_model(typed(model, precision, target), path)
                paths.append(path)
            write_bundle(place, paths[0], plan_json, target, precision=precision, dense=paths[1])
