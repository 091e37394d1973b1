"""What one latency and one engine say: a gain or none, and how it is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from edgeprune.core.results import EngineBuild, Latency
from edgeprune.report.words import between, samples_words, times

Tone: TypeAlias = Literal["good", "plain", "unsure", "bad"]

# A clock on a quiet machine repeats itself within this; a smaller difference is none.
_SAME = 0.02
# A ninth decile so far above the median says that the machine was busy with something else.
_NOISY = 1.5


def headline(latency: Sequence[Latency], targets: Sequence[str]) -> tuple[Latency, ...]:
    """One row a target, a measured one before a modelled one; rows of other machines only where there are no others."""
    asked = [row for row in latency if row.target in targets] or list(latency)
    rows = {row.target: row for row in sorted(asked, key=lambda row: row.kind == "measured")}
    order = list(dict.fromkeys(row.target for row in asked))
    return tuple(rows[target] for target in order)


def sure_gain(row: Latency) -> Tone:
    """Whether a row shows a gain: good, bad for a loss, unsure where it may be either."""
    if row.speedup_interval is not None:
        low, high = row.speedup_interval.low, row.speedup_interval.high
    elif noise(row):
        return "unsure"
    else:
        low, high = row.speedup * (1 - _SAME), row.speedup * (1 + _SAME)
    if low > 1:
        return "good"
    return "bad" if high < 1 else "unsure"


def noise(row: Latency) -> str:
    """What says that a measurement was disturbed; empty if nothing does."""
    timed = [timing for timing in (row.dense_timing, row.pruned_timing) if timing is not None and timing.p50_ms > 0]
    worst = max((timing.p90_ms / timing.p50_ms for timing in timed), default=1.0)
    if worst < _NOISY:
        return ""
    return f"a disturbed measurement: one run in ten took {worst:.1f} times the median or more"


def known_as(row: Latency) -> str:
    """How a latency is known: 'measured, TensorRT 10.3', 'modelled, 80 % interval 1.31x to 1.55x'."""
    around = row.speedup_interval
    interval = "" if around is None else f"80 % interval {between(around.low, around.high)}"
    words = ("measured", row.runtime, "disturbed" if noise(row) else "") if row.kind == "measured" else ("modelled",)
    return ", ".join(word for word in (*words, interval) if word)


def model_miss(latency: Sequence[Latency], row: Latency) -> str:
    """How far the latency model was off where a target has a measured row too; empty where that is not known."""
    if row.kind != "measured":
        return ""
    same = (other for other in latency if other.kind == "modelled" and other.target == row.target)
    said = next((other for other in same if other.precision in ("", row.precision) or not row.precision), None)
    if said is None:
        return ""
    pairs = (("dense", said.dense_p50_ms, row.dense_p50_ms), ("pruned", said.pruned_p50_ms, row.pruned_p50_ms))
    parts = [f"{name} {model:.3f} ms ({100 * (model / clock - 1):+.0f} %)" for name, model, clock in pairs]
    return f"modelled before it was measured: {', '.join(parts)}, {times(said.speedup)}"


def engine_words(engine: EngineBuild) -> tuple[str, Tone]:
    """What became of an engine, and whether that is good news."""
    if not engine.built:
        return f"not built: {engine.error or 'no reason given'}", "unsure"
    if engine.check is not None and not engine.check.passed:
        return f"WRONG OUTPUTS: {_checked(engine)}", "bad"
    fused, tone = _fused(engine)
    return ", ".join(part for part in (fused, _checked(engine)) if part), tone


def _fused(engine: EngineBuild) -> tuple[str, Tone]:
    if engine.attentions is None or engine.fused_attentions is None:
        return "built; fused attentions not counted", "plain"
    dense = engine.dense_fused_attentions
    before = "" if dense is None else f", the dense model has {dense}"
    words = f"{engine.fused_attentions} of {engine.attentions} attentions fused{before}"
    if engine.attention_unfused:
        return f"built, {words}: fusion was kept off", "plain"
    expected = engine.attentions if dense is None else min(dense, engine.attentions)
    if engine.fused_attentions < expected:
        return f"LOST FUSED ATTENTION: {words}", "bad"
    return f"built, {words}", "good"


def _checked(engine: EngineBuild) -> str:
    if engine.check is None:
        return ""
    against = f"cosine {engine.check.cosine:.5f} to ONNX Runtime on {samples_words(engine.check.samples)}"
    return f"outputs checked, {against}" if engine.check.passed else against
