"""What edgeprune does, as functions: the only place that knows the order of work. Nothing here prints."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.compiler.deciding.budgets import budget_of, make_budget
from edgeprune.compiler.deciding.given import given_arrays, given_plan
from edgeprune.compiler.delivering.checking import Checker
from edgeprune.compiler.delivering.folding import with_measured
from edgeprune.compiler.delivering.output import check_free, output_folder
from edgeprune.compiler.delivering.reporting import PAGE, comparison_of, read_report, written_bytes
from edgeprune.compiler.inspecting import inspection_of
from edgeprune.compiler.job import Job
from edgeprune.compiler.opening.loading import opened, pruned_facts, require_stream
from edgeprune.compiler.proving.proofs import check_limits
from edgeprune.compiler.sensitivity import sensitivity_of
from edgeprune.compiler.timing.benching import Measurement, check_counts, measure
from edgeprune.compiler.timing.contenders import feeds_for, open_contenders
from edgeprune.compiler.timing.runners import choose_runtimes
from edgeprune.core.errors import PlanError
from edgeprune.core.loading import read_model
from edgeprune.core.plan import Plan, plan_from_json
from edgeprune.core.progress import SILENT
from edgeprune.core.whole import check_new, write_outputs
from edgeprune.core.widths.arrays import FILE as WIDTHS
from edgeprune.core.widths.arrays import arrays_to_bytes, read_arrays
from edgeprune.options import Options
from edgeprune.report import Report, ValidationReport, describe_environment
from edgeprune.report.html import render_comparison_html
from edgeprune.report.modelled import LatencyTable, modelled_rows
from edgeprune_calibration.sources import Export, export_torch
from edgeprune_targets.latency import estimate
from edgeprune_targets.profiles import load_targets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeprune.core.progress import Progress
    from edgeprune.core.widths.arrays import Arrays
    from edgeprune.report import BenchReport, CheckReport, Inspection
    from edgeprune.report.comparison import Comparison
    from edgeprune_calibration._torch_export import Exporter


@dataclass(frozen=True, slots=True)
class CompileResult:
    """What a compile gives.

    Attributes:
        report: what was decided, gained and lost.
        plan: the decision; `compile(plan=...)` makes the same bytes from it again.
        out: the folder that was written; None if none was asked for.
        arrays: what stays of widths that the plan cuts, and the weights solved for it; empty where it cuts none.
    """

    report: Report
    plan: Plan
    out: Path | None
    arrays: Arrays = field(default_factory=dict)


def compile(  # noqa: A001, PLR0913 - users say edgeprune.compile; the budget has three spellings
    model: str | Path,
    *,
    target: str | Sequence[str] = (),
    keep: float | None = None,
    macs: float | None = None,
    plan: Path | Plan | None = None,
    widths: Path | Arrays | None = None,
    out: Path | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> CompileResult:
    """Compile a model to fewer tokens or narrower blocks, prove it, build engines for the targets, and report.

    Args:
        model: an ONNX file, or a PyTorch source (`timm:NAME`, `pkg.module:factory`, a `.pt2` file).
        target: names of target profiles, or paths of profiles, several with commas between; none takes those of `plan`.
        keep: share of patch-token work to keep, averaged over the blocks, in (0, 1]; all where `options` ask
            for fewer output tokens or narrower widths.
        macs: share of the model's MACs to keep, instead of `keep`.
        plan: apply this instead of deciding: a plan, its file, or the folder that a compile wrote.
        widths: the weights of a plan that cuts widths, as `CompileResult.arrays`, or the file or folder where they
            lie; beside the plan's file without.
        out: folder to write; it appears whole or not at all.
        options: everything else.
        progress: is told what is going on.

    Raises:
        ModelError: if the model cannot be read, or has nothing that can be cut.
        PlanError: if the budget or plan cannot be met, or `out` exists.
        DataError: if the data cannot be used.
        TargetError: if a profile is wrong.
        ValidationError: if the drift passes a limit of `options.max_drift`; nothing is written then.
    """
    options, progress = options or Options(), progress or SILENT
    given = given_plan(plan)
    targets = load_targets(target or (given.targets if given else ()))
    budget = None if given is not None else budget_of(keep, macs, options)
    if given is not None and (keep is not None or macs is not None):
        make_budget(keep, 0.0 if keep is not None else macs)
    if out is not None:
        check_free(out, force=options.force)
    with opened(model, options) as loaded:
        require_stream(loaded)
        job = Job(loaded, options, targets, progress)
        if given is not None:
            job.take(given_arrays(plan, widths, given, options))
        decision = job.decide(budget, given)
        report, pruned = job.run(decision, budget)
        if out is not None:
            with output_folder(out, force=options.force) as folder:
                report = job.deliver(folder, report, pruned)
        return CompileResult(report, decision.plan, out, job.bench.arrays)


def plan(  # noqa: PLR0913 - as compile
    model: str | Path,
    *,
    target: str | Sequence[str] = (),
    keep: float | None = None,
    macs: float | None = None,
    widths: Path | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Decide what `compile` would do, without doing it. Arguments and errors are those of `compile`.

    `widths` is the file for the weights of a plan that cuts widths: `widths.npz` beside where the plan will lie.

    Raises:
        PlanError: as `compile`, or if widths are to be cut and there is no place for their weights.
    """
    options, progress = options or Options(), progress or SILENT
    budget = budget_of(keep, macs, options)
    targets = load_targets(target)
    if (options.width_shares or options.axes or options.params) and widths is None:
        msg = "a plan that cuts widths has weights beside it, and there is no place for them"
        raise PlanError(msg, hint=f"name the plan's file with -o; from Python give widths=Path('{WIDTHS}')")
    with opened(model, options) as loaded:
        require_stream(loaded)
        job = Job(loaded, options, targets, progress)
        decided = job.decide(budget, None).plan
    if widths is not None and decided.widths:
        write_outputs({widths: arrays_to_bytes(job.bench.arrays)})
    return decided


def inspect(
    model: str | Path,
    *,
    sensitivity: bool = False,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Say what was recognised in a model, what was refused and why, and which strategies apply.

    Args:
        model: as of `compile`.
        sensitivity: measure on `options.data` what cuts of widths would cost, one at a time.
        options: shapes and data.
        progress: is told what is going on.

    Raises:
        ModelError: if the model cannot be read or made static. A model in which nothing can be cut is no error.
        DataError: if widths are to be measured and there is no data for it.
    """
    options, progress = options or Options(), progress or SILENT
    with opened(model, options) as loaded:
        found = inspection_of(loaded)
        if not sensitivity or loaded.found.stream is None:
            return found
        return replace(found, sensitivity=sensitivity_of(loaded, options, progress))


def check(
    model: str | Path,
    target: str | Sequence[str],
    *,
    build: bool = True,
    options: Options | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Say whether a model would build on each target, and what stands against it. Nothing need be recognised in it.

    Args:
        model: as of `compile`.
        target: names of target profiles, or paths of profiles.
        build: try a real engine where TensorRT-RTX builds for the target.
        options: shapes, precision, version of TensorRT, fused attention.
        progress: is told what is going on.

    Raises:
        ModelError: if the model cannot be read or made static.
        PlanError: if there is no target.
        TargetError: if a profile is wrong, or a target cannot have the version of TensorRT.
    """
    options, progress = options or Options(), progress or SILENT
    targets = load_targets(target)
    with opened(model, options) as loaded:
        return Checker(loaded, options, build=build).check(targets, progress)


def latency(
    model: str | Path,
    target: str | Sequence[str],
    *,
    compare: str | Path | None = None,
    options: Options | None = None,
) -> LatencyTable:
    """Model the latency of a model on each target, and the speed-up of a second one. Nothing is run.

    Args:
        model: as of `compile`; nothing need be recognised in it.
        target: names of target profiles, or paths of profiles.
        compare: a second model with the same inputs, such as the pruned one.
        options: shapes and precision.

    Raises:
        ModelError: if a model cannot be read or made static.
        PlanError: if there is no target.
        TargetError: if a profile is wrong, or a shape is unknown.
    """
    options = options or Options()
    targets, precision = load_targets(target), options.precision or "fp16"
    if not targets:
        msg = "no target to model the latency on"
        raise PlanError(msg, hint="name one: --targets rtx-4090,jetson-orin; `edgeprune targets` lists them")
    found = []
    for each in (model, compare):
        if each is not None:
            with opened(each, options) as loaded:
                found.append([estimate(loaded.dense, device, precision) for device in targets])
    rows = modelled_rows(*found)
    return LatencyTable(model=str(model), compared=str(compare or ""), precision=precision, rows=rows)


def export(  # noqa: PLR0913 - an exporter's options
    source: str,
    out: Path,
    *,
    exporter: Exporter = "dynamo",
    opset: int | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    dynamic_batch: bool = False,
) -> Export:
    """Export a PyTorch source to ONNX and check it against PyTorch in ONNX Runtime.

    Raises:
        ModelError: if the source cannot be loaded or exported, or the graph disagrees with PyTorch.
    """
    return export_torch(
        source, out, exporter=exporter, opset=opset, inputs=inputs, batch=batch, dynamic_batch=dynamic_batch
    )


def validate(
    dense: Path,
    pruned: Path,
    *,
    data: str | Path | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Prove a compiled model against its dense one: identity, exactness, drift.

    Args:
        dense: the source ONNX.
        pruned: a compiled model, or the folder that holds it.
        data: as `options.data`.
        options: inputs, preprocessing, reference, limits.
        progress: is told what is going on.

    Raises:
        ModelError: if a model cannot be read.
        PlanError: if `pruned` carries no plan, or one of another model.
        DataError: if there is no data, or it cannot be used.
        ValidationError: if the drift passes a limit.
    """
    options, progress = options or Options(), progress or SILENT
    path = pruned / "model.onnx" if pruned.is_dir() else pruned
    source = read_model(path)
    text = source.model.metadata_props.get("edgeprune.plan")
    if text is None:
        msg = f"the model carries no plan: {path}"
        raise PlanError(msg, hint="give a model.onnx that `edgeprune compile` wrote")
    made = plan_from_json(text.encode())
    options = replace(options, data=data or options.data, inputs={**made.inputs, **options.inputs})
    with opened(dense, options) as loaded:
        job = Job(loaded, options, (), progress)
        job.check_fits(made)
        if made.widths:
            job.take(read_arrays(path.parent / WIDTHS, made.widths_sha256))
        validation = job.validate(source.model, made, job.data)
        check_limits(validation, options.max_drift)
        return ValidationReport(
            model=loaded.facts(),
            pruned=pruned_facts(source.model, source.sha256, made),
            validation=validation,
            warnings=loaded.warnings,
            environment=describe_environment(),
            command=options.command,
        )


def bench(  # noqa: PLR0913 - what is measured, with what, how often
    model: Path,
    pruned: Path | None = None,
    *,
    runtimes: Sequence[str] = (),
    rounds: int = 50,
    warm_up: int = 10,
    options: Options | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure on this machine: one model, or a dense and a pruned one in turn.

    Args:
        model: an ONNX file; without `pruned` also a folder that `compile` wrote, whose report knows its dense model.
        pruned: a pruned model, or the folder that holds it.
        runtimes: names of those to measure with; all that run here if there are none.
        rounds: timed rounds, each runs every model twice.
        warm_up: fewest runs of each model before; more follow until times no longer change.
        options: data and shapes that the models are fed, precision, threads.
        progress: is told what is going on.

    Raises:
        ModelError: if a model cannot be read, or the two do not fit together.
        PlanError: if the dense model of a folder is not known, or a number is out of its range.
        DataError: if the data cannot be used.
        TargetError: if a named runtime does not exist, or does not run here.
    """
    options, progress = options or Options(), progress or SILENT
    check_counts(rounds, warm_up)
    choice = choose_runtimes(runtimes)
    contenders = open_contenders(model, pruned, options)
    feeds, data = feeds_for(contenders[0], options)
    measurement = Measurement(contenders, feeds, choice.device, rounds=rounds, warm_up=warm_up, options=options)
    return measure(measurement, choice, data, progress)


def report(place: Path, *, measured: Path | None = None, out: Path | None = None, force: bool = False) -> Report:
    """Read the report of a compile, complete it by a device's own numbers, and write its page.

    Args:
        place: the output folder of a compile, or its `report.json`.
        measured: `measured.json` that `deploy/bench.sh` wrote on the device; `report.json` is then written anew too.
        out: where the page goes; `report.html` beside the report without.
        force: overwrite `out`.

    Raises:
        DataError: if there is no report of this version, or the numbers are of another compile.
        TargetError: if `measured` holds no measurement.
        PlanError: if `out` exists and `force` is not set.
        EdgepruneError: if the disk is full or the place cannot be written.
    """
    if out is not None:
        check_new(out, force=force)
    written = read_report(place)
    made = written.report if measured is None else with_measured(written.report, written.folder, measured)
    data, page = written_bytes(made, written.folder)
    files = {} if measured is None else {written.path: data}
    write_outputs({**files, out or written.folder / PAGE: page})
    return made


def compare(places: Sequence[Path], *, out: Path | None = None, force: bool = False) -> Comparison:
    """Put the reports of several compiles side by side; `out` is the page to write, if one is wanted.

    Raises:
        DataError: if one of them is no report of this version.
        PlanError: if `out` exists and `force` is not set.
        EdgepruneError: if the disk is full or the place cannot be written.
    """
    if out is not None:
        check_new(out, force=force)
    compared = comparison_of(places)
    if out is not None:
        write_outputs({out: render_comparison_html(compared).encode()})
    return compared
