"""What edgeprune does, as functions: the only place that knows the order of work. Nothing here prints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune._deciding import Bench, Budget, Decision, Judge, decide, make_budget
from edgeprune._delivering import (
    build_engines,
    bundle,
    check_free,
    modelled,
    output_folder,
)
from edgeprune._inspecting import inspection_of
from edgeprune._loading import Loaded, opened, pruned_facts, require_stream
from edgeprune._measuring import cpu_latency
from edgeprune._proving import check_limits, drift_of, exactness, is_identity
from edgeprune.core.costs import count_macs
from edgeprune.core.errors import PlanError
from edgeprune.core.loading import digest_of, read_model
from edgeprune.core.plan import Plan, plan_from_json, plan_to_json
from edgeprune.core.progress import SILENT
from edgeprune.core.results import Latency, Validation
from edgeprune.core.saving import save_model
from edgeprune.options import Options
from edgeprune.report import Budget as ReportedBudget
from edgeprune.report import Report, StrategyReport, ValidationReport, describe_environment, to_json
from edgeprune_calibration.data import TensorSpec, open_dataset
from edgeprune_calibration.preprocess import load_preprocess
from edgeprune_calibration.reference import OnnxReference, TorchReference, record
from edgeprune_calibration.sources import Export, export_torch
from edgeprune_passes.apply import finish
from edgeprune_passes.registry import make_pass
from edgeprune_targets.profiles import load_target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from edgeprune.core.progress import Progress
    from edgeprune.report import Inspection
    from edgeprune_calibration.data import Dataset
    from edgeprune_calibration.reference import Recording
    from edgeprune_targets.profiles import Target

# Decisions are made on every fifth sample and scored on the others, where there are enough for that.
_EVERY = 5
_ENOUGH = 10


@dataclass(frozen=True, slots=True)
class CompileResult:
    """What a compile gives.

    Attributes:
        report: what was decided, gained and lost.
        plan: the decision; `compile(plan=...)` makes the same bytes from it again.
        out: the folder that was written; None if none was asked for.
    """

    report: Report
    plan: Plan
    out: Path | None


def compile(  # noqa: A001, PLR0913 - users say edgeprune.compile; the budget has three spellings
    model: str | Path,
    *,
    target: str | Sequence[str] = (),
    keep: float | None = None,
    macs: float | None = None,
    plan: Path | Plan | None = None,
    out: Path | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> CompileResult:
    """Compile a model to fewer tokens, prove it, build engines for the targets, and report.

    Args:
        model: an ONNX file, or a PyTorch source (`timm:NAME`, `pkg.module:factory`, a `.pt2` file).
        target: names of target profiles, or paths of profiles.
        keep: share of patch-token work to keep, averaged over the blocks, in (0, 1].
        macs: share of the model's MACs to keep, instead of `keep`.
        plan: apply this instead of deciding.
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
    targets = _targets(target)
    budget = None if plan is not None else make_budget(keep, macs)
    if plan is not None and (keep is not None or macs is not None):
        make_budget(keep, 0.0 if keep is not None else macs)
    if out is not None:
        check_free(out, force=options.force)
    with opened(model, options) as loaded:
        require_stream(loaded)
        job = _Job(loaded, options, targets, progress)
        decision = job.decide(budget, plan)
        report, pruned = job.run(decision, budget)
        if out is not None:
            with output_folder(out, force=options.force) as folder:
                report = job.deliver(folder, report, pruned)
        return CompileResult(report, decision.plan, out)


def plan(
    model: str | Path,
    *,
    target: str | Sequence[str] = (),
    keep: float | None = None,
    macs: float | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Decide what `compile` would do, without doing it. Arguments and errors are those of `compile`."""
    options, progress = options or Options(), progress or SILENT
    budget = make_budget(keep, macs)
    targets = _targets(target)
    with opened(model, options) as loaded:
        require_stream(loaded)
        return _Job(loaded, options, targets, progress).decide(budget, None).plan


def inspect(model: str | Path, *, options: Options | None = None) -> Inspection:
    """Say what was recognised in a model, what was refused and why, and which strategies apply.

    Raises:
        ModelError: if the model cannot be read or made static. A model in which nothing can be cut is no error.
    """
    options = options or Options()
    with opened(model, options) as loaded:
        return inspection_of(loaded)


def export(
    source: str,
    out: Path,
    *,
    exporter: str = "dynamo",
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
        source, out, exporter=exporter, opset=opset, inputs=inputs, batch=batch, dynamic_batch=dynamic_batch  # type: ignore[arg-type]
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
        job = _Job(loaded, options, (), progress)
        job.check_fits(made)
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


def _targets(target: str | Sequence[str]) -> tuple[Target, ...]:
    names = (target,) if isinstance(target, str) else tuple(target)
    return tuple(load_target(name) for name in names)


class _Job:
    """One model, one request: what the steps of a compile share."""

    def __init__(self, loaded: Loaded, options: Options, targets: tuple[Target, ...], progress: Progress) -> None:
        self.loaded = loaded
        self.options = options
        self.targets = targets
        self.progress = progress
        self.bench = Bench(loaded, options, tuple(target.name for target in targets))
        self.warnings = list(loaded.warnings)
        self._data: Dataset | None = None
        self._recording: Recording | None = None

    @property
    def batch(self) -> int:
        """B of the compiled graph."""
        return next(iter(self.loaded.inputs.values()))[0]

    @property
    def data(self) -> Dataset | None:
        """All samples, opened once."""
        if self._data is None and self.options.data is not None:
            specs = [_spec(value) for value in self.loaded.dense.graph.inputs]
            preprocess = load_preprocess(self.options.preprocess)
            self._data = open_dataset(
                self.options.data, specs, preprocess=preprocess, samples=self.options.samples, seed=self.options.seed
            )
        return self._data

    @property
    def recording(self) -> Recording | None:
        """What the reference says on all samples, run once."""
        if self._recording is None and self.data is not None:
            reference = self._reference()
            self._recording = record(reference, self.data, batch=self.batch, progress=self.progress)
        return self._recording

    def _reference(self) -> OnnxReference | TorchReference:
        if self.options.reference is not None:
            names = [str(value.name) for value in self.loaded.dense.graph.outputs]
            return TorchReference(self.options.reference, outputs=names)
        return OnnxReference(self.loaded.dense, name="source ONNX", threads=self.options.threads)

    def parts(self) -> tuple[Dataset | None, Dataset | None]:
        """The samples that decide, and those that score."""
        data = self.data
        if data is None or len(data) < _ENOUGH:
            return data, data
        deciding = list(range(0, len(data), _EVERY))
        scoring = [i for i in range(len(data)) if i % _EVERY]
        return data.subset(deciding), data.subset(scoring)

    def decide(self, budget: Budget | None, given: Path | Plan | None) -> Decision:
        """The plan: given, or chosen."""
        if budget is None:
            made = given if isinstance(given, Plan) else plan_from_json(_read(given))
            self.check_fits(made)
            self._check_code(made)
            return Decision(made)
        deciding, _ = self.parts()
        judge = None
        if deciding is not None and self.recording is not None:
            judge = Judge(self.recording, deciding, self.batch, self.options.threads)
        decision = decide(self.bench, budget, judge, self.progress)
        self.warnings += decision.warnings
        return decision

    def check_fits(self, made: Plan) -> None:
        """Check that a plan was made for this model.

        Raises:
            PlanError: naming what differs.
        """
        if made.model_sha256 != self.loaded.source.sha256:
            msg = f"the plan is for another model: sha256 {made.model_sha256[:12]}, this file has {self.loaded.source.sha256[:12]}"
            raise PlanError(msg, hint="decide a plan for this file with `edgeprune plan`")
        if dict(made.inputs) != self.loaded.inputs:
            msg = f"the plan is for inputs {made.inputs}, the model was opened with {self.loaded.inputs}"
            raise PlanError(msg, hint="open the model with the same --input and --batch")

    def _check_code(self, made: Plan) -> None:
        """Check that a plan from somewhere runs no code that the user did not ask for.

        Raises:
            PlanError: naming the pass.
        """
        for spec in made.passes:
            if getattr(make_pass(spec), "runs_code", False) and not self.options.trust_plan:
                msg = f"the plan runs code of yours: pass `{spec.name}` with {dict(spec.options)}"
                raise PlanError(msg, hint="read it, then give --trust-plan if you know where the plan comes from")

    def run(self, decision: Decision, budget: Budget | None) -> tuple[Report, ir.Model]:
        """Apply the plan, prove it, and begin the report."""
        made = decision.plan
        with self.progress.stage("rewrite"):
            pruned = self.bench.build(made)
        validation = self.validate(pruned, made, self.parts()[1])
        check_limits(validation, self.options.max_drift)
        finish(pruned, plan_to_json(made))
        latency = self._latency(pruned, made)
        spec = made.cuts[0].strategy if made.cuts else None
        report = Report(
            model=self.loaded.facts(),
            pruned=pruned_facts(pruned, "", made),
            budget=self._budget(budget, made, pruned),
            strategy=StrategyReport(
                name=spec.name if spec else "none", options=spec.options if spec else {}, candidates=decision.candidates
            ),
            plan=made,
            validation=validation,
            latency=tuple(latency),
            refusals=self.loaded.found.head_refusals,
            warnings=tuple(self.warnings),
            environment=describe_environment(),
            command=self.options.command,
        )
        return report, pruned

    def _budget(self, budget: Budget | None, made: Plan, pruned: ir.Model) -> ReportedBudget:
        return ReportedBudget(
            kind=budget.kind if budget else "plan",
            asked=budget.share if budget else None,
            keep=self.bench.keep_of(made),
            macs=count_macs(pruned) / self.bench.dense_macs,
        )

    def _latency(self, pruned: ir.Model, made: Plan) -> list[Latency]:
        rows = modelled(self.loaded.dense, pruned, self.targets, made.precision)
        self.warnings += [
            f"{row.target}: modelled slower than dense ({row.speedup:.2f}x): at this size the selection costs more than it saves; "
            "try --cuts 2, a larger --batch, or a larger model"
            for row in rows
            if row.speedup < 1
        ]
        if self.data is not None:
            _, feed = next(iter(self.data.feeds(batch=self.batch)))
            with self.progress.stage("time on this machine"):
                rows.append(cpu_latency(self.loaded.dense, pruned, feed, self.options.threads))
        return rows

    def validate(self, pruned: ir.Model, made: Plan, scoring: Dataset | None) -> Validation:
        """All proofs that the data allows."""
        if scoring is None or self.recording is None:
            self.warnings.append("nothing was proved on data: give --data")
            return Validation(reference="none", samples=0)
        threads = self.options.threads
        _, feed = next(iter(scoring.feeds(batch=self.batch)))
        with self.progress.stage("prove identity"):
            identity = is_identity(self.loaded, made, feed, threads) if made.cuts else None
        with self.progress.stage("prove exactness"):
            exact = exactness(self.loaded, pruned, made, feed, threads)
        drift = drift_of(self.recording, pruned, scoring, batch=self.batch, threads=threads, progress=self.progress)
        return Validation(
            reference=self.recording.name, samples=len(scoring), identity=identity, exactness=exact, drift=drift
        )

    def deliver(self, folder: Path, report: Report, pruned: ir.Model) -> Report:
        """Fill the output folder, engines and report last."""
        made = report.plan
        save_model(pruned, folder / "model.onnx")
        (folder / "plan.json").write_bytes(plan_to_json(made))
        (folder / "engine").mkdir()
        engines = []
        if self.options.engine and self.targets:
            engines = build_engines(pruned, self.targets, made.precision, folder / "engine", self.progress)
        bundle(folder, self.loaded.dense, pruned, plan_to_json(made), self.targets, made.precision)
        facts = replace(report.pruned, sha256=digest_of(folder / "model.onnx"))
        lost = [e for e in engines if e.built and (e.fused_attentions or 0) < (e.attentions or 0)]
        words = [f"{e.target}: only {e.fused_attentions} of {e.attentions} attentions are fused" for e in lost]
        report = replace(report, engines=tuple(engines), pruned=facts, warnings=(*report.warnings, *words))
        (folder / "report.json").write_bytes(to_json(report))
        return report


def _read(given: Path | Plan | None) -> bytes:
    assert isinstance(given, Path)
    try:
        return given.read_bytes()
    except OSError as error:
        msg = f"cannot read the plan {given}: {error.strerror or error}"
        raise PlanError(msg, hint="give a plan.json written by `edgeprune plan` or `edgeprune compile`") from error


def _spec(value: ir.Value) -> TensorSpec:
    from edgeprune.core.graph import static_shape

    dtype = value.dtype
    return TensorSpec(str(value.name), static_shape(value) or (), dtype.numpy().name if dtype is not None else "float32")
