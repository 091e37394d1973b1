"""A report on a terminal: what was gained and what it cost first, details below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.core.refusals import Refusal
from edgeprune.core.results import (
    Candidate,
    Drift,
    EngineBuild,
    Exactness,
    Latency,
    ModelFacts,
    Validation,
    WidthReport,
)
from edgeprune.report.judging import engine_words, known_as, model_miss
from edgeprune.report.report import Report, ValidationReport
from edgeprune.report.verdict import chosen_candidate, verdict_of
from edgeprune.report.words import count, leaving, of_dense, percent, runs, scan_rows, small, times

LOUD = "bold red"
_METHODS = "; "  # between the parts of a method


def render_report(report: Report) -> RenderableType:
    """Lay out the report of a compile."""
    verdict = verdict_of(report)
    others = [words for words in report.warnings if words != verdict.warning]
    return Group(
        Text(verdict.summary, style=LOUD if verdict.is_alarm else "bold"),
        *([Text.assemble(("warning ", "bold yellow"), verdict.warning)] if verdict.warning else []),
        "",
        _facts(_gains(report)),
        "",
        *_drift(report.validation.drift),
        *_widths(report.widths),
        *_candidates(report.strategy.candidates, chosen_candidate(report)),
        *_engines(report.engines),
        *render_notes(report.refusals, others),
    )


def render_validation(report: ValidationReport) -> RenderableType:
    """Lay out what `validate` found out."""
    return Group(
        _facts([*_sizes(report.model, report.pruned), *_proofs(report.validation)]),
        "",
        *_drift(report.validation.drift),
        *render_notes(report.refusals, report.warnings),
    )


def render_notes(refusals: Sequence[Refusal], warnings: Sequence[str]) -> Iterator[RenderableType]:
    """Lay out what was declined and what a person should read, one a line."""
    for refusal in refusals:
        yield Text.assemble(("refused ", "yellow"), str(refusal))
    for warning in warnings:
        yield Text.assemble(("warning ", "bold yellow"), warning)


def table(title: str, *columns: str, left: int = 1) -> Table:
    """Start a table; columns after the first `left` hold numbers and stand to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i < left else "right", overflow="fold")
    return made


def _facts(rows: list[tuple[str, str | Text]]) -> Table:
    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, value)
    return made


def _gains(report: Report) -> list[tuple[str, str | Text]]:
    budget = report.budget
    asked = "" if budget.asked is None else f", asked for {budget.kind} {budget.asked:g}"
    return [
        ("strategy", report.strategy.name),
        *([("output tokens", leaving(report.plan))] if report.plan.output is not None else []),
        *_sizes(report.model, report.pruned),
        *scan_rows(report.plan),
        ("keep", f"{budget.keep:.3f} of the patch-token work, {budget.macs:.3f} of the MACs{asked}"),
        *_proofs(report.validation),
        *_engine_rows(report.engines),
        *_speeds(report.latency),
        *(
            ("latency, model", f"{row.target}: {miss}")
            for row in report.latency
            if (miss := model_miss(report.latency, row))
        ),
    ]


def _sizes(dense: ModelFacts, pruned: ModelFacts) -> list[tuple[str, str | Text]]:
    return [
        ("MACs", f"{count(dense.macs)} -> {of_dense(pruned.macs, dense.macs)}"),
        ("parameters", f"{count(dense.params)} -> {of_dense(pruned.params, dense.params)}"),
        ("tokens per block", runs(pruned.tokens_per_block) or "-"),
    ]


def _proofs(validation: Validation) -> list[tuple[str, str | Text]]:
    rows: list[tuple[str, str | Text]] = []
    if validation.scans is not None:
        rows.append(("raised scans", _exact(validation.scans)))
    if validation.identity is not None:
        rows.append(("identity", _yes(good=validation.identity, yes="bit for bit", no="NOT the dense model's outputs")))
    if validation.exactness is not None:
        rows.append(("exactness", _exact(validation.exactness)))
    if validation.widths is not None:
        rows.append(("widths, exactness", _exact(validation.widths)))
    if not validation.drift:
        rows.append(("drift", "not measured: no data"))
    for output, drift in validation.drift.items():
        rows.append((f"drift of {output}", _drift_line(drift, validation)))
    return rows


def _exact(exactness: Exactness) -> Text:
    words = f"error {exactness.max_abs_error:.1e} at scale {exactness.max_abs_value:.1e} ({exactness.method})"
    return _yes(good=exactness.passed, yes=words, no=f"FAILED: {words}")


def _yes(*, good: bool, yes: str, no: str) -> Text:
    return Text(yes) if good else Text(no, style=LOUD)


def _drift_line(drift: Drift, validation: Validation) -> str:
    words = [f"cosine {drift.cosine:.4f}"]
    if drift.kl is not None:
        words.append(f"KL {small(drift.kl)}")
    if drift.top1_agreement is not None:
        words.append(f"same class {percent(drift.top1_agreement)}")
    return f"{', '.join(words)} on {validation.samples} samples, against {validation.reference}"


def _engine_rows(engines: Sequence[EngineBuild]) -> Iterator[tuple[str, str | Text]]:
    styles = {"bad": LOUD, "unsure": "yellow", "good": "", "plain": ""}
    for engine in engines:
        words, tone = engine_words(engine)
        yield f"engine {engine.target}", Text(words, style=styles[tone])


def _speeds(latency: Sequence[Latency]) -> Iterator[tuple[str, str]]:
    """A line a row, and once for all what their methods have in common."""
    modelled = [row.method.split(_METHODS) for row in latency if row.kind == "modelled"]
    shared = (
        [part for part in modelled[0] if part and all(part in parts for parts in modelled)] if len(modelled) > 1 else []
    )
    for row in latency:
        own = [part for part in row.method.split(_METHODS) if row.kind == "measured" or part not in shared]
        took = f"{row.dense_p50_ms:.3f} -> {row.pruned_p50_ms:.3f} ms p50, {times(row.speedup)}, {known_as(row)}"
        method = _METHODS.join(own)
        yield f"latency, {row.kind}", f"{row.target}: {took}" + (f" ({method})" if method else "")
    if shared:
        yield "modelled by", _METHODS.join(shared)


def _drift(drifts: dict[str, Drift]) -> Iterator[RenderableType]:
    if not drifts:
        return
    made = table("Drift", "output", "worst sample", "cosine", "KL", "same class", "rel. error", "correlation", left=2)
    for output, drift in drifts.items():
        agreement = "-" if drift.top1_agreement is None else percent(drift.top1_agreement)
        numbers = (
            small(drift.cosine),
            small(drift.kl),
            agreement,
            small(drift.relative_error),
            small(drift.correlation),
        )
        made.add_row(output, drift.worst_sample, *numbers)
    yield made


def _widths(widths: Sequence[WidthReport]) -> Iterator[RenderableType]:
    if not widths:
        return
    made = table("Widths cut", "width", "weights", "block", "kept", "held-out error", "without solving", left=2)
    for row in widths:
        errors = ("-" if error is None else small(error) for error in (row.error, row.untouched))
        made.add_row(row.kind, row.method, str(row.block), f"{row.keep} of {row.of}", *errors)
    yield made


def _candidates(candidates: Sequence[Candidate], chosen: str) -> Iterator[RenderableType]:
    if not candidates:
        return
    made = table(
        "Strategies tried, on the samples that decide", "strategy", "MACs", "score", "KL", "same class", "cosine"
    )
    for candidate in candidates:
        mark = " *" if candidate.name == chosen and candidate.refused is None else ""
        made.add_row(candidate.name + mark, *_candidate_numbers(candidate))
    yield made
    for candidate in candidates:
        if candidate.refused is not None:
            yield Text.assemble(("refused ", "yellow"), f"{candidate.name}: {candidate.refused}")


def _candidate_numbers(candidate: Candidate) -> tuple[str, ...]:
    if candidate.refused is not None:
        return ("-",) * 5
    drift = next(iter(candidate.drift.values()), None)
    if drift is None:
        return (percent(candidate.macs_ratio), small(candidate.score), "-", "-", "-")
    agreement = "-" if drift.top1_agreement is None else percent(drift.top1_agreement)
    return (percent(candidate.macs_ratio), small(candidate.score), small(drift.kl), agreement, small(drift.cosine))


def _engines(engines: Sequence[EngineBuild]) -> Iterator[RenderableType]:
    if not any(engine.built for engine in engines):
        return
    made = table("Engines", "target", "builder", "compute", "size", "attentions", "fused", "fused in dense", left=3)
    for engine in engines:
        size = "-" if engine.bytes is None else f"{count(engine.bytes)}B"
        fused = (_number(engine.attentions), _number(engine.fused_attentions), _number(engine.dense_fused_attentions))
        made.add_row(engine.target, engine.builder, engine.compute_capability, size, *fused)
    yield made


def _number(number: int | None) -> str:
    return "-" if number is None else str(number)
