"""The sections of a compile's page that show what was gained and lost."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.core.results import BlockCost, Drift, Interval, Latency, Timing
from edgeprune.report.html.charts import Span, bars, histogram, spans, steps
from edgeprune.report.html.maps import token_map
from edgeprune.report.html.markup import Markup, el, raw
from edgeprune.report.html.parts import answers, code, figure, figures, legend, more, prose, section, table
from edgeprune.report.html.pictures import Pictures
from edgeprune.report.judging import known_as, model_miss, noise
from edgeprune.report.report import Report
from edgeprune.report.verdict import Verdict, is_broken
from edgeprune.report.words import between, count, entering, percent, runs, samples_words, small, times


def verdict_section(verdict: Verdict) -> Markup:
    """The gist: two sentences, four answers, the worst warning."""
    warning = (
        el("p", el("strong", "Warning"), " ", prose(verdict.warning), class_="warning") if verdict.warning else None
    )
    parts = (el("p", prose(verdict.summary), class_="summary"), warning, answers(verdict))
    return el("section", *parts, id="verdict", aria_label="Verdict", class_="verdict")


def speed_section(report: Report) -> Markup:
    """Every latency, with where it comes from."""
    rows = report.latency
    if not rows:
        return section("speed", "Speed", el("p", "Nothing was measured, and no target was named to model."))
    chart = figure(
        spans([_span_of(row) for row in rows], label=_spans_label(rows)),
        "Speed-up",
        "filled: measured; ring: modelled; line: 80 % interval",
    )
    columns = ("target", "known", "runtime", "precision", "dense p50 ms", "pruned p50 ms", "speed-up")
    made = table("Latency of one run", columns, [_latency_row(row) for row in rows], left=4)
    misses = [f"{row.target}: {words}" for row in rows for words in (model_miss(rows, row), noise(row)) if words]
    methods = dict.fromkeys(f"{row.kind}, {row.target}: {row.method}" for row in rows if row.method)
    notes = [el("p", words, class_="small") for words in misses]
    how = more("How these were obtained", el("ul", *[el("li", words) for words in methods])) if methods else None
    return section("speed", "Speed", figures([chart]), made, *notes, how, note="dense / pruned; above 1x is faster")


def _span_of(row: Latency) -> Span:
    interval = row.speedup_interval
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Span(row.target, row.speedup, low, high, row.kind == "modelled", f"{times(row.speedup)} {row.kind}")


def _spans_label(rows: Sequence[Latency]) -> str:
    return "Speed-up by target: " + "; ".join(f"{row.target} {times(row.speedup)}, {known_as(row)}" for row in rows)


def _latency_row(row: Latency) -> tuple[object, ...]:
    place = el("span", code(row.target), el("small", row.device) if row.device else None)
    runtime, precision = row.runtime or "-", row.precision or "-"
    dense = _ms(row.dense_p50_ms, row.dense_interval_ms, row.dense_timing)
    pruned = _ms(row.pruned_p50_ms, row.pruned_interval_ms, row.pruned_timing)
    around = row.speedup_interval
    gain = el("span", times(row.speedup), None if around is None else el("small", between(around.low, around.high)))
    return place, el("em", row.kind, class_=row.kind), runtime, precision, dense, pruned, gain


def _ms(value: float, interval: Interval | None, timing: Timing | None) -> Markup:
    """A median, with what is known of its surroundings below it."""
    below = None if interval is None else el("small", f"{_digits(interval.low)} to {_digits(interval.high)}")
    if timing is not None:
        below = el("small", f"p90 {_digits(timing.p90_ms)}, p99 {_digits(timing.p99_ms)}")
    return el("span", _digits(value), below)


def _digits(value: float) -> str:
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"


def blocks_section(report: Report) -> Markup:
    """Tokens, MACs and time of every block."""
    costs = report.blocks
    charts = [_schedule(report)]
    if costs:
        dense, pruned = [c.dense_macs for c in costs], [c.pruned_macs for c in costs]
        label = f"MACs of each block, dense against pruned: {count(sum(dense))} to {count(sum(pruned))} in all"
        charts.append(
            figure(bars(dense, pruned, _names([c.block for c in costs]), label=label, axis="MACs"), "MACs per block")
        )
    charts += [_block_times(row) for row in report.latency if row.blocks]
    numbers = more("The same in numbers", _block_table(costs)) if costs else None
    before, after = entering(report.plan)
    tokens = f"{runs(before)} dense; {runs(after)} pruned"
    parts = " What comes before the first block stands as `in`, the head counts with the last." if costs else ""
    words = el("p", prose(f"Tokens that enter each block: {tokens}.{parts}"), class_="small")
    return section(
        "blocks",
        "Blocks",
        legend(),
        figures(charts),
        words,
        numbers,
        note="what each block is given, and what it costs",
    )


def _schedule(report: Report) -> Markup:
    dense, pruned = entering(report.plan)
    label = f"Tokens that enter each block: dense {runs(dense)}; pruned {runs(pruned)}"
    cuts = len(report.plan.cuts)
    note = "no cut" if not cuts else f"{cuts} cut{'s' * (cuts > 1)}"
    return figure(steps(dense, pruned, label=label), "Tokens per block", note)


def _block_times(row: Latency) -> Markup:
    dense, pruned = [b.dense_ms for b in row.blocks], [b.pruned_ms for b in row.blocks]
    label = f"Time of each block on {row.target}, {row.kind}: {sum(dense):.3f} to {sum(pruned):.3f} ms in all"
    chart = bars(dense, pruned, _names([b.block for b in row.blocks]), label=label, axis="ms")
    return figure(chart, f"Time per block, {row.target}", row.kind)


def _names(blocks: Sequence[int]) -> tuple[str, ...]:
    return tuple("in" if block < 0 else str(block) for block in blocks)


def _block_table(costs: Sequence[BlockCost]) -> Markup:
    rows = [
        (
            "before" if c.block < 0 else c.block,
            c.dense_tokens,
            c.pruned_tokens,
            count(c.dense_macs),
            count(c.pruned_macs),
            _share(c),
        )
        for c in costs
    ]
    columns = ("block", "tokens, dense", "tokens, pruned", "MACs, dense", "MACs, pruned", "share")
    return table("Tokens and MACs by block", columns, rows)


def _share(cost: BlockCost) -> str:
    return percent(cost.pruned_macs / cost.dense_macs) if cost.dense_macs else "-"


def drift_section(report: Report, pictures: Pictures) -> Markup:
    """How far the outputs moved, on which samples most."""
    validation = report.validation
    if not validation.drift:
        words = "No data was given, so drift was not measured: what the cuts cost in accuracy is not known."
        return section("accuracy", "Accuracy", el("p", words), note="drift to the dense model")
    columns = ("output", "same class", "KL", "cosine", "correlation", "relative error", "mean error", "worst sample")
    made = table("Drift, mean over the samples", columns, [_drift_row(name, d) for name, d in validation.drift.items()])
    charts = [_spread(name, d) for name, d in validation.drift.items() if d.relative_errors]
    note = f"against the {validation.reference}, {samples_words(validation.samples)}"
    return section("accuracy", "Accuracy", made, figures(charts), _worst(report, pictures), note=note)


def _drift_row(name: str, drift: Drift) -> tuple[object, ...]:
    if is_broken(drift):
        return code(name), el("strong", "no number", class_="bad"), "-", "-", "-", "-", "-", code(drift.worst_sample)
    agreement = "-" if drift.top1_agreement is None else percent(drift.top1_agreement)
    numbers = (small(drift.kl), small(drift.cosine), small(drift.correlation), percent(drift.relative_error))
    return code(name), agreement, *numbers, small(drift.mean_abs_error), code(drift.worst_sample)


def _spread(name: str, drift: Drift) -> Markup:
    finite = [error for error in drift.relative_errors if error < 1e300]
    lost = len(drift.relative_errors) - len(finite)
    reach = f"from {min(finite, default=0):.3g} to {max(finite, default=0):.3g}"
    label = f"Relative error of {name} over {samples_words(len(finite))}, {reach}"
    note = f"{lost} without bound not shown" if lost else "relative error to the dense output"
    return figure(histogram(finite, label=label, axis="relative error"), f"Drift of {name} by sample", note)


def _worst(report: Report, pictures: Pictures) -> Markup:
    if not report.worst_samples:
        return raw("")
    cells = []
    for worst in report.worst_samples:
        image = pictures.use(worst.image, 1, 1)
        shown = (
            el("svg", image, class_="map", viewBox="0 0 1 1", role="img", aria_label=worst.sample) if image else None
        )
        error = (
            f"{percent(worst.relative_error)} off in {worst.output}"
            if worst.relative_error < 1e300
            else f"{worst.output} is no number"
        )
        cells.append(el("div", shown, el("span", el("b", worst.sample), error)))
    return el("figure", el("figcaption", el("strong", "Worst samples")), el("div", *cells, class_="maps"))


def tokens_section(report: Report, pictures: Pictures) -> Markup:
    """Where tokens stayed, on real samples."""
    if not report.token_maps:
        return raw("")
    maps = [token_map(sample, pictures) for sample in report.token_maps]
    few = all(len(sample.cuts) < 3 for sample in report.token_maps)
    samples = el("div", *maps, class_="samples few" if few else "samples")
    keys = (("kept", "kept"), ("joined", "merged, one colour a group"), ("dropped", "dropped"))
    key = el("p", *[el("span", el("i", class_=f"key-{kind}"), words) for kind, words in keys], class_="legend")
    return section("tokens", "Tokens", key, samples, note="what became of each patch, after each cut")
