"""The sections of a compile's page that say how it was made: strategies, engines, plan, environment, command."""

from __future__ import annotations

import shlex

from edgeprune.core.plan import OutputCut, TokenCut, plan_to_json
from edgeprune.core.results import Candidate, EngineBuild
from edgeprune.report.html.markup import Markup, el
from edgeprune.report.html.parts import code, facts, more, prose, section, table
from edgeprune.report.judging import engine_words
from edgeprune.report.report import Report
from edgeprune.report.verdict import chosen_candidate
from edgeprune.report.words import count, leaving, of_dense, percent, scan_rows, size, small


def strategies_section(report: Report) -> Markup:
    """What was applied, and all that was tried for it."""
    strategy = report.strategy
    budget = report.budget
    asked = "by a plan" if budget.asked is None else f"{budget.kind} {budget.asked:g}"
    options = ", ".join(f"{name} = {value}" for name, value in strategy.options.items())
    pairs = [
        ("strategy", code(strategy.name)),
        *([("options", options)] if options else []),
        *([("output tokens", prose(leaving(report.plan)))] if report.plan.output is not None else []),
        ("asked for", asked),
        ("keep", f"{budget.keep:.3f} of the patch-token work"),
        ("MACs", f"{count(report.model.macs)} to {of_dense(report.pruned.macs, report.model.macs)}"),
        ("parameters", f"{count(report.model.params)} to {of_dense(report.pruned.params, report.model.params)}"),
    ]
    columns = ("strategy", "MACs", "score", "same class", "KL", "cosine", "correlation", "relative error")
    rows = [_candidate_row(candidate, chosen_candidate(report)) for candidate in strategy.candidates]
    tried = table("Tried at the same budget, on the samples that decide; a lower score is better", columns, rows)
    return section(
        "strategies", "Strategies", facts(pairs), tried, note="how tokens were chosen, and what else was tried"
    )


def _candidate_row(candidate: Candidate, chosen: str) -> tuple[object, ...]:
    is_chosen = candidate.name == chosen and candidate.refused is None
    name = el("span", code(candidate.name), el("small", "chosen") if is_chosen else None)
    if candidate.refused is not None:
        return el("span", code(candidate.name), el("small", f"refused: {candidate.refused}")), *("-",) * 7
    drift = next(iter(candidate.drift.values()), None)
    start = (name, percent(candidate.macs_ratio), small(candidate.score))
    if drift is None:
        return *start, *("-",) * 5
    agreement = "-" if drift.top1_agreement is None else percent(drift.top1_agreement)
    numbers = (small(drift.kl), small(drift.cosine), small(drift.correlation), percent(drift.relative_error))
    return *start, agreement, *numbers


def engines_section(report: Report) -> Markup:
    """Every engine: what built it, what is in it, whether it computes the same."""
    columns = ("target", "outcome", "runtime", "size", "kernels", "fused attentions", "dense", "build s")
    made = table("Engines", columns, [_engine_row(engine) for engine in report.engines], left=3)
    files = [engine for engine in report.engines if engine.path]
    rows = [(code(e.path), code(e.sha256 or "-"), code(e.manifest or "-")) for e in files]
    listing = more("Files", table("Engine files", ("file", "sha256", "manifest"), rows, left=3)) if files else None
    note = "one a target; fused attention is what makes them fast"
    return section("engines", "Engines", made, _lowerings(report), listing, note=note)


def _lowerings(report: Report) -> Markup:
    """The graphs that runtimes are given, each against the compiled one."""
    rows = [
        (
            code(proof.runtime),
            f"{proof.max_abs_error:.1e}",
            f"{proof.max_abs_value:.1e}",
            f"{proof.tolerance:.0e}",
            "same" if proof.passed else el("strong", "NOT the same", class_="bad"),
        )
        for proof in report.lowerings
    ]
    columns = ("written for", "largest error", "at scale", "rounding explains", "outputs")
    return table("Graphs as the runtimes take them, against the compiled one", columns, rows)


def _engine_row(engine: EngineBuild) -> tuple[object, ...]:
    words, tone = engine_words(engine)
    seconds = "-" if engine.seconds is None else f"{engine.seconds:.1f}"
    known = engine.attentions is not None and engine.fused_attentions is not None
    fused = f"{engine.fused_attentions} of {engine.attentions}" if known else "-"
    dense = _number(engine.dense_fused_attentions)
    outcome = el("span", words, class_=f"words {tone}")
    runtime = engine.runtime or engine.builder
    place = el("span", code(engine.target), el("small", f"compute capability {engine.compute_capability}"))
    return place, outcome, runtime, size(engine.bytes), _number(engine.kernels), fused, dense, seconds


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def notes_section(report: Report) -> Markup:
    """What was declined, and what a person should read."""
    warnings = [el("li", el("strong", "Warning"), " ", prose(words), class_="warn") for words in report.warnings]
    refusals = [
        el("li", el("strong", "Refused"), " ", code(refusal.code.value), " ", refusal.reason, _places(refusal.at))
        for refusal in report.refusals
    ]
    if not warnings and not refusals:
        return section("notes", "Notes", el("p", "Nothing was refused, and there is no warning."))
    return section(
        "notes", "Notes", el("ul", *warnings, *refusals, class_="notes"), note="warnings, and what was declined"
    )


def _places(at: tuple[str, ...]) -> Markup | None:
    return el("span", " at ", *[el("span", code(name), " ") for name in at]) if at else None


def origin_section(report: Report) -> Markup:
    """All that is needed to make it again."""
    plan, environment = report.plan, report.environment
    again = shlex.join(("edgeprune", *report.command)) if report.command else _by_plan()
    made_with = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    machine = f"{environment.system}, {environment.machine}, {environment.cpus} processors, Python {environment.python}"
    pairs = [
        ("edgeprune", environment.edgeprune),
        ("machine", machine),
        ("packages", made_with or "-"),
        ("dense model", code(report.model.sha256)),
        ("pruned model", code(report.pruned.sha256 or "not written")),
        ("inputs", ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in plan.inputs.items())),
        ("precision", plan.precision),
        *scan_rows(plan),
        ("seed", plan.seed),
    ]
    written = plan_to_json(plan).decode()
    cuts = table(
        "Cuts of the plan",
        ("block", "patch tokens kept", "strategy", "options"),
        [
            *(_cut_row(report, cut.block, cut) for cut in plan.cuts),
            *([_cut_row(report, "output", plan.output)] if plan.output is not None else []),
        ],
        left=4,
    )
    command = el("pre", code(again), tabindex="0", aria_label="command to reproduce")
    hint = el("p", "Make it again (one click selects the line):", class_="small")
    full = more("plan.json", el("pre", code(written), tabindex="0"))
    return section(
        "origin", "Origin", hint, command, facts(pairs), cuts, full, note="the decision, the machine, the command"
    )


def _by_plan() -> str:
    return "edgeprune compile MODEL --plan plan.json -o OUT"


def _cut_row(report: Report, where: int | str, cut: TokenCut | OutputCut) -> tuple[object, ...]:
    options = ", ".join(f"{name} = {value}" for name, value in cut.strategy.options.items()) or "defaults"
    return where, f"{cut.keep} of {report.plan.patch_tokens}", code(cut.strategy.name), options
