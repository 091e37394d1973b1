"""One model, one request: the steps that `compile`, `plan` and `validate` share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune.compiler.deciding.bench import Bench
from edgeprune.compiler.deciding.budgets import Budget
from edgeprune.compiler.deciding.leaving import warnings_of
from edgeprune.compiler.deciding.plans import Decision, Judge, decide
from edgeprune.compiler.delivering.delivery import Delivery
from edgeprune.compiler.opening.loading import pruned_facts
from edgeprune.compiler.proving.lowering_proof import noise_for
from edgeprune.compiler.proving.proofs import check_limits, drift_of, exactness, is_identity
from edgeprune.compiler.proving.width_proof import prove_widths
from edgeprune.compiler.structuring.axes import Axes
from edgeprune.compiler.structuring.latency_budget import decide_latency, modelled_latency
from edgeprune.compiler.structuring.structure import Structure
from edgeprune.compiler.structuring.width_rows import rows_of
from edgeprune.compiler.timing.block_costs import block_costs
from edgeprune.compiler.timing.measuring import cpu_latency
from edgeprune.compiler.timing.modelling import modelled
from edgeprune.core.costs import count_macs
from edgeprune.core.errors import ModelError, PlanError
from edgeprune.core.plan import plan_to_json
from edgeprune.core.recognition import recognize
from edgeprune.core.results import Validation
from edgeprune.core.scans import selective_scans
from edgeprune.core.widths.arrays import FILE as WIDTHS
from edgeprune.core.widths.arrays import arrays_to_bytes
from edgeprune.report import Budget as ReportedBudget
from edgeprune.report import Report, StrategyReport, describe_environment
from edgeprune.report.judging import sure_gain
from edgeprune_calibration.data import TensorSpec, open_dataset
from edgeprune_calibration.padding import find_padding, tokens_seen, warnings_on
from edgeprune_calibration.preprocess import load_preprocess
from edgeprune_calibration.raising import prove_raised
from edgeprune_calibration.reference import OnnxReference, TorchReference, record
from edgeprune_passes.apply import finish
from edgeprune_passes.registry import make_pass
from edgeprune_targets.lowering.scans import standard_scans

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from edgeprune.compiler.opening.loading import Loaded
    from edgeprune.compiler.structuring.pricing import ModelledLatency
    from edgeprune.core.plan import Plan
    from edgeprune.core.progress import Progress
    from edgeprune.core.results import Exactness, Latency
    from edgeprune.core.widths.arrays import Arrays
    from edgeprune.options import Options
    from edgeprune_calibration.data import Dataset
    from edgeprune_calibration.reference import Recording
    from edgeprune_targets.profiles import Target

# Decisions are made on every fifth sample and scored on the others, where there are enough for that; weights are fitted
# on two of five.
_EVERY = 5
_FITTING = (0, 2)
_ENOUGH = 10


class Job:
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
        self._asked: float | None = None  # the share that a budget of milliseconds stands for

    @property
    def batch(self) -> int:
        """B of the compiled graph."""
        return next(iter(self.loaded.inputs.values()))[0]

    @property
    def data(self) -> Dataset | None:
        """All samples, opened once."""
        if self._data is None and self.options.data is not None:
            specs = [TensorSpec.of(value) for value in self.loaded.dense.graph.inputs]
            preprocess = load_preprocess(self.options.preprocess)
            self._data = open_dataset(
                self.options.data, specs, preprocess=preprocess, samples=self.options.samples, seed=self.options.seed
            )
        return self._data

    @property
    def recording(self) -> Recording | None:
        """What the reference says on all samples, run once."""
        if self._recording is None and self.data is not None:
            made = record(self._reference(), self.data, batch=self.batch, progress=self.progress)
            self._recording = self._without_padding(made, self.data)
        return self._recording

    def _without_padding(self, made: Recording, data: Dataset) -> Recording:
        """The recording with which tokens of the samples count, where a mask of the model says it."""
        padding = find_padding(self.loaded.found)
        if padding is None:
            return made
        seen = tokens_seen(self.loaded.dense, padding, data, batch=self.batch, threads=self.options.threads)
        self.warnings += warnings_on(padding, seen)
        return replace(made, seen=seen)

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
        asked = self.options
        fits = asked.width_shares or asked.axes or asked.params is not None or self.bench.arrays
        decides = [i % _EVERY in (_FITTING if fits else (0,)) for i in range(len(data))]
        deciding = [i for i, each in enumerate(decides) if each]
        scoring = [i for i, each in enumerate(decides) if not each]
        return data.subset(deciding), data.subset(scoring)

    def decide(self, budget: Budget | None, given: Plan | None) -> Decision:
        """The plan: given, or chosen for the budget."""
        if given is not None:
            self.check_fits(given)
            self._check_code(given)
            return Decision(given, widths=rows_of(given, self.bench.arrays))
        assert budget is not None
        deciding, _ = self.parts()
        judge = None
        if deciding is not None and self.recording is not None:
            judge = Judge(self.recording, deciding, self.batch, self.options.threads)
        if budget.kind == "modelled-latency":
            return self._within_latency(judge)
        if self.options.axes or budget.kind == "params":
            return self._over_axes(budget, judge)
        decision = decide(self.bench, budget, judge, self.progress, self.targets)
        self.warnings += decision.warnings
        return self._with_widths(decision) if self.options.width_shares else decision

    def _within_latency(self, judge: Judge | None) -> Decision:
        """Fewer tokens, or a mix of axes, for a modelled latency on the targets."""
        price, budget = modelled_latency(self.bench, self.targets)
        self._asked = budget.share
        if self.options.axes:
            return self._over_axes(budget, judge, price)
        decision = decide_latency(self.bench, price, budget.share, judge, self.progress)
        self.warnings += decision.warnings
        return decision

    def _over_axes(self, budget: Budget, judge: Judge | None, price: ModelledLatency | None = None) -> Decision:
        """The mix of axes with the least drift at the budget."""
        search = Axes(self.bench, budget, judge, self.progress, self.targets, price)
        decision, made = search.best(self.options.axes or ("mlp", "head-size"))
        if made is not None:
            self.take(made.arrays)
        self.warnings += decision.warnings
        return decision

    def _with_widths(self, decision: Decision) -> Decision:
        """The same tokens, and the widths that were asked for."""
        shares = self.options.width_shares
        structure = Structure(self.bench, decision.plan, tuple(shares), self.targets)
        structure.measure(self.parts()[0], self.batch, self.progress)
        keep = structure.by_shares(shares)
        made = structure.solved(keep, self.progress)
        self.warnings += [*structure.missed(shares, keep), *structure.slow()]
        self.take(made.arrays)
        self.warnings += made.warnings
        if self.data is not None and len(self.data) < _ENOUGH:
            self.warnings.append(f"widths were fitted on the {len(self.data)} samples that score them; give {_ENOUGH}")
        return replace(decision, plan=made.plan, widths=made.rows)

    def take(self, arrays: Arrays) -> None:
        """Widths are cut by these from now on."""
        self.bench = replace(self.bench, arrays=arrays)

    def check_fits(self, made: Plan) -> None:
        """Check that a plan was made for this model.

        Raises:
            PlanError: naming what differs.
        """
        if made.model_sha256 != self.loaded.source.sha256:
            here = self.loaded.source.sha256[:12]
            msg = f"the plan is for another model: sha256 {made.model_sha256[:12]}, this file has {here}"
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
        scans = self._raised()
        validation = replace(self.validate(pruned, made, self.parts()[1]), scans=scans)
        check_limits(validation, self.options.max_drift)
        finish(pruned, plan_to_json(made))
        latency = self._latency(pruned, made)
        self.warnings += warnings_of(made, self.loaded, self.options)
        leaving = made.output.strategy if made.output is not None else None
        spec = made.cuts[0].strategy if made.cuts else leaving
        report = Report(
            source=self.loaded.title,
            model=self.loaded.facts(),
            pruned=pruned_facts(pruned, "", made),
            budget=self._budget(budget, made, pruned),
            strategy=StrategyReport(
                name=spec.name if spec else "none", options=spec.options if spec else {}, candidates=decision.candidates
            ),
            plan=made,
            validation=validation,
            widths=decision.widths,
            latency=tuple(latency),
            blocks=block_costs(self.loaded.dense, pruned, made),
            refusals=self.loaded.found.head_refusals,
            warnings=tuple(self.warnings),
            environment=describe_environment(),
            command=self.options.command,
        )
        return report, pruned

    def _raised(self) -> Exactness | None:
        """That raised scans compute what the source does: all that follows stands on the graph that has them."""
        loaded, threads = self.loaded, self.options.threads
        # A Loop that stays is looked at too: folders have been seen to break those that carry what grows.
        loops = any(node.op_type == "Loop" for node in loaded.dense.graph)
        if not loops and not selective_scans(loaded.dense.graph):
            return None
        scoring = self.parts()[1]
        feed = next(iter(scoring.feeds(batch=self.batch)))[1] if scoring else noise_for(loaded.dense, self.options.seed)
        method = f"the source on {'data' if scoring else 'noise'}"
        with self.progress.stage("prove raised scans"):
            try:
                return prove_raised(loaded.source.model, loaded.dense, feed, method=method, threads=threads)
            except ModelError as error:
                self.warnings.append(f"what the scans were raised to is not proved: {error.message}")
                return None

    def _budget(self, budget: Budget | None, made: Plan, pruned: ir.Model) -> ReportedBudget:
        return ReportedBudget(
            kind=budget.kind if budget else "plan",
            asked=(self._asked or budget.share) if budget else None,
            keep=self.bench.keep_of(made),
            macs=count_macs(pruned) / self.bench.dense_macs,
        )

    def _latency(self, pruned: ir.Model, made: Plan) -> list[Latency]:
        graphs, fused = (self.loaded.dense, pruned), made.fused_attention
        rows = modelled(*graphs, self.targets, made.precision, fused_attention=fused, scan=made.scan)
        if self.data is not None:
            _, feed = next(iter(self.data.feeds(batch=self.batch)))
            with self.progress.stage("time on this machine"):
                dense, pruned = (standard_scans(graph, made.scan) for graph in graphs)
                rows.append(cpu_latency(dense, pruned, feed, self.options.threads))
        self.warnings += [_slower(row) for row in rows if made.cuts and (row.speedup < 1 or sure_gain(row) == "bad")]
        return rows

    def validate(self, pruned: ir.Model, made: Plan, scoring: Dataset | None) -> Validation:
        """All proofs that the data allows."""
        if scoring is None or self.recording is None:
            self.warnings.append("nothing was proved on data: give --data")
            return Validation(reference="none", samples=0)
        threads = self.options.threads
        _, feed = next(iter(scoring.feeds(batch=self.batch)))
        base, tokens = self._narrowed(made)
        with self.progress.stage("prove identity"):
            identity = is_identity(base, tokens, feed, threads) if made.cuts or made.output else None
        with self.progress.stage("prove exactness"):
            exact = exactness(base, pruned, tokens, feed, threads)
            widths = None
            if made.widths:
                arrays = self.bench.arrays
                widths = prove_widths(self.loaded.dense, base.dense, made, arrays, feed, threads=threads)
        drift = drift_of(self.recording, pruned, scoring, batch=self.batch, threads=threads, progress=self.progress)
        return Validation(
            reference=self.recording.name,
            samples=len(scoring),
            identity=identity,
            exactness=exact,
            widths=widths,
            drift=drift,
        )

    def _narrowed(self, made: Plan) -> tuple[Loaded, Plan]:
        """The dense model with widths cut alone, and the rest of the plan: what cuts of tokens are proved against."""
        if not made.widths:
            return self.loaded, made
        rest = replace(made, widths=(), widths_sha256="")
        alone = replace(made, cuts=(), output=None, eliminate_tail=False, passes=())
        dense = self.bench.build(alone)
        return replace(self.loaded, dense=dense, found=recognize(dense)), rest

    def deliver(self, folder: Path, report: Report, pruned: ir.Model) -> Report:
        """Fill the output folder."""
        graphs = (self.loaded.dense, pruned)
        if report.plan.widths:
            (folder / WIDTHS).write_bytes(arrays_to_bytes(self.bench.arrays))
        return Delivery(graphs, self.targets, self.parts()[1], self.options, self.progress).write(folder, report)


def _slower(row: Latency) -> str:
    how = "slower than dense" if sure_gain(row) == "bad" else "no faster than dense, as far as that is known"
    return (
        f"{row.target}: {row.kind} {how} ({row.speedup:.2f}x): at this size the selection costs what it saves; "
        "a larger --batch or a larger model gains more, and fewer --cuts cost less"
    )
