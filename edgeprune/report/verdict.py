"""The verdict on a compile, in words: what it costs, what it gains, and what of that is known.

The terminal and the page say the same, because both say this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.core.plan import Plan, StrategySpec
from edgeprune.core.results import Drift, EngineBuild, Latency, Validation
from edgeprune.report.judging import Tone, engine_words, headline, known_as, sure_gain
from edgeprune.report.proofs import error_words, failed_proofs
from edgeprune.report.report import Report
from edgeprune.report.words import between, listed, percent, samples_words, small, times

# What JSON holds for a drift without end, and anything near it.
_ENDLESS = 1e300
# 97.5th percentile of the normal distribution: a 95 % interval.
_Z = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a reader asks first.

    Attributes:
        name: what was asked.
        figure: the answer in a few characters.
        words: what the figure is, of what, and how it is known.
        tone: whether that is good news.
    """

    name: str
    figure: str
    words: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The gist of a report.

    Attributes:
        summary: two sentences: cost in work and time, cost in accuracy.
        accuracy: how near the outputs are to the dense model's.
        speed: dense / pruned latency.
        proof: whether the rewrite does what it says.
        engines: what was built, and whether attention stayed fused.
        warning: the worst of what a person should know; empty if there is nothing.
    """

    summary: str
    accuracy: Finding
    speed: Finding
    proof: Finding
    engines: Finding
    warning: str = ""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """In the order in which they are read."""
        return (self.accuracy, self.speed, self.proof, self.engines)

    @property
    def is_alarm(self) -> bool:
        """Whether the model must not be used as it is."""
        return self.proof.tone == "bad" or self.accuracy.tone == "bad"


def verdict_of(report: Report) -> Verdict:
    """Judge a report by what it holds; what was not looked at is said to be unknown."""
    proof = _proof(report)
    rows = headline(report.latency, report.plan.targets)
    pace = _pace(rows, loud=report.plan.output is None)
    sentences = [
        "The proof FAILED: this model does not do what it says." if proof.tone == "bad" else "",
        f"The pruned model does {percent(report.budget.macs)} of the MACs{pace}.",
        _closeness(report.validation),
        _leaving(report.plan),
    ]
    return Verdict(
        summary=" ".join(sentence for sentence in sentences if sentence),
        accuracy=_accuracy(report.validation),
        speed=_speed(rows),
        proof=proof,
        engines=_engines(report.engines),
        warning=_worst(report, rows),
    )


def main_drift(validation: Validation) -> tuple[str, Drift] | None:
    """The output to judge by: the first with classes, else the first."""
    with_classes = [item for item in validation.drift.items() if item[1].top1_agreement is not None]
    return next(iter(with_classes or validation.drift.items()), None)


def chosen_candidate(report: Report) -> str:
    """Name of the candidate that was taken: with the modes that were tried, and searched where that was."""
    strategy, plan = report.strategy, report.plan
    names = [candidate.name for candidate in strategy.candidates if candidate.refused is None]
    owns = (str(StrategySpec(name=strategy.name, options=strategy.options)), strategy.name)
    modes = (f", {plan.restore}, {plan.alignment}", f", {plan.alignment}", f", {plan.restore}", "")
    likely = [f"{own}{mode}{how}" for own in owns for how in (", searched", "") for mode in modes]
    return next((name for name in likely if name in names), strategy.name)


def is_broken(drift: Drift) -> bool:
    """Whether an output was no number on some sample."""
    numbers = (drift.relative_error, drift.mean_abs_error, drift.cosine, drift.kl or 0.0)
    return any(not math.isfinite(number) or abs(number) > _ENDLESS for number in numbers)


def agreement_interval(share: float, samples: int) -> tuple[float, float]:
    """A 95 % interval for a share that was seen on so many samples (Wilson's score)."""
    spread = _Z * math.sqrt(share * (1 - share) / samples + _Z**2 / (4 * samples**2))
    middle, scale = share + _Z**2 / (2 * samples), 1 + _Z**2 / samples
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def _leaving(plan: Plan) -> str:
    """What fewer tokens at the outputs are for, since nothing here times or scores that."""
    if plan.output is None:
        return ""
    left = f"{plan.output.keep} of {plan.patch_tokens} tokens leave it"
    return (
        f"{left}: what that gains, and what it costs in answers, shows in the model that reads them, which is not here."
    )


def _pace(rows: Sequence[Latency], *, loud: bool) -> str:
    if not rows:
        return "; its speed is not known, since nothing was measured or modelled"
    if len(rows) > 3:
        return f"; {_range_words(rows)}"
    tones = {sure_gain(row) for row in rows}
    said = listed([f"{times(row.speedup)} on {row.target} ({known_as(row)})" for row in rows])
    if tones == {"bad"}:
        return f" but is {'SLOWER' if loud else 'slower by itself'} than the dense one: {said}"
    if tones == {"good"}:
        return f" and is faster than the dense one: {said}"
    return f"; a gain in speed is not sure: {said}"


def _range_words(rows: Sequence[Latency]) -> str:
    speeds = [row.speedup for row in rows]
    slower = sum(sure_gain(row) == "bad" for row in rows)
    lost = f", slower than dense on {slower} of them" if slower else ""
    reach = between(min(speeds), max(speeds))
    return f"its speed is {reach} the dense one's on {len(rows)} targets ({_kinds(rows)}){lost}"


def _kinds(rows: Sequence[Latency]) -> str:
    measured = sum(row.kind == "measured" for row in rows)
    if measured in (0, len(rows)):
        return "measured" if measured else "modelled"
    return f"{measured} measured, {len(rows) - measured} modelled"


def _closeness(validation: Validation) -> str:
    found = main_drift(validation)
    if found is None:
        return "What that costs in accuracy is not known: there was no data."
    name, drift = found
    on, against = samples_words(validation.samples), validation.reference
    if is_broken(drift):
        return f"Its output `{name}` is NOT A NUMBER or without bound on some of {on}."
    if drift.top1_agreement is None:
        return f"Its output `{name}` correlates {drift.correlation:.3f} with the {against} over {on}."
    same = f"{round(drift.top1_agreement * validation.samples)} of {on}"
    return f"It gives the same class as the {against} on {same} ({percent(drift.top1_agreement)})."


def _accuracy(validation: Validation) -> Finding:
    found = main_drift(validation)
    if found is None:
        return Finding(
            name="accuracy", figure="not known", words="no data was given: drift was not measured", tone="unsure"
        )
    name, drift = found
    on = f"against the {validation.reference}, {samples_words(validation.samples)}"
    if is_broken(drift):
        return Finding(name="accuracy", figure="broken", words=f"`{name}` is no number, {on}", tone="bad")
    if drift.top1_agreement is None:
        words = f"correlation of `{name}` {on}; relative error {percent(drift.relative_error)}"
        return Finding(name="accuracy", figure=f"{drift.correlation:.3f}", words=words)
    low, high = agreement_interval(drift.top1_agreement, max(validation.samples, 1))
    sure = f"95 % interval {100 * low:.0f} to {100 * high:.0f} %"
    words = f"same class {on} ({sure}); KL {small(drift.kl)}"
    return Finding(name="accuracy", figure=percent(drift.top1_agreement), words=words)


def _speed(rows: Sequence[Latency]) -> Finding:
    if not rows:
        return Finding(name="speed", figure="not known", words="nothing was measured or modelled", tone="unsure")
    tones = {sure_gain(row) for row in rows}
    tone: Tone = tones.pop() if len(tones) == 1 else "unsure"
    speeds = [row.speedup for row in rows]
    if len(rows) > 1:
        words = f"of the dense model's speed on {len(rows)} targets, {_kinds(rows)}"
        return Finding(name="speed", figure=between(min(speeds), max(speeds)), words=words, tone=tone)
    (row,) = rows
    place = f"{row.target}, {row.device}" if row.device else row.target
    return Finding(name="speed", figure=times(row.speedup), words=f"{known_as(row)}, on {place}", tone=tone)


def _proof(report: Report) -> Finding:
    validation = report.validation
    failed = failed_proofs(validation, report.lowerings)
    if failed:
        return Finding(name="proof", figure="FAILED", words="; ".join(failed), tone="bad")
    exactness = validation.exactness or validation.widths
    if exactness is None:
        same = "; with all tokens kept, the outputs are the dense model's bit for bit" if validation.identity else ""
        return Finding(name="proof", figure="not run", words=f"the cuts were not proved{same}", tone="unsure")
    whole = "bit for bit with all tokens kept; " if validation.identity else ""
    words = f"{whole}with the cuts, {error_words(exactness)}"
    return Finding(name="proof", figure="exact", words=words, tone="good")


def _engines(engines: Sequence[EngineBuild]) -> Finding:
    if not engines:
        return Finding(name="engines", figure="none", words="no engine was asked for")
    built = [engine for engine in engines if engine.built]
    tones = [engine_words(engine)[1] for engine in built]
    missing = [engine.target for engine in engines if not engine.built]
    parts = [engine_words(engine)[0] for engine in built] if len(built) == 1 else [f"{_all_fused(built)}"] * bool(built)
    parts += [f"not built here: {', '.join(missing)}"] * bool(missing)
    tone: Tone = "bad" if "bad" in tones else ("good" if built else "unsure")
    return Finding(name="engines", figure=f"{len(built)} of {len(engines)}", words="; ".join(parts), tone=tone)


def _all_fused(built: Sequence[EngineBuild]) -> str:
    wrong = [engine.target for engine in built if engine_words(engine)[1] == "bad"]
    if wrong:
        return f"built, but lost fused attention or wrong outputs on {', '.join(wrong)}"
    counts = [(engine.fused_attentions or 0, engine.attentions or 0) for engine in built]
    return f"built, {sum(f for f, _ in counts)} of {sum(a for _, a in counts)} attentions fused in all"


def _worst(report: Report, rows: Sequence[Latency]) -> str:
    proof = _proof(report)
    if proof.tone == "bad":
        return proof.words
    for engine in sorted(report.engines, key=lambda engine: engine.check is None or engine.check.passed):
        words, tone = engine_words(engine)
        if tone == "bad":
            return f"{engine.target}: {words}"
    slow = [row for row in rows if sure_gain(row) == "bad"]
    for row in sorted(slow, key=lambda row: (row.kind != "measured", row.speedup)):
        said = (warning for warning in report.warnings if warning.startswith(f"{row.target}:"))
        return next(said, f"{row.target}: {row.kind} slower than dense ({times(row.speedup)})")
    return report.warnings[0] if report.warnings else ""
