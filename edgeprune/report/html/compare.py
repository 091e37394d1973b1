"""Several reports on one page."""

from __future__ import annotations

from edgeprune.report.comparison import Comparison, Entry
from edgeprune.report.html.charts import Span, spans, steps
from edgeprune.report.html.markup import Markup, el
from edgeprune.report.html.page import page
from edgeprune.report.html.parts import answers, figure, figures, legend, prose, section, table
from edgeprune.report.judging import known_as
from edgeprune.report.words import entering, runs, times


def render_comparison_html(comparison: Comparison) -> str:
    """Make the page that compares reports."""
    names = [entry.name for entry in comparison.entries]
    rows = [(name, *cells) for name, cells in comparison.rows()]
    notes = [el("p", el("strong", "Warning"), " ", words, class_="warning") for words in comparison.notes()]
    made = table("Side by side", ("", *names), rows, left=0)
    sections = [
        el("section", *notes, *[_verdict(entry) for entry in comparison.entries], id="verdict", class_="verdict"),
        section("numbers", "Numbers", made),
        section("speed", "Speed", figures(_speeds(comparison)), note="dense / pruned; above 1x is faster"),
        section("blocks", "Blocks", legend(), figures([_schedule(entry) for entry in comparison.entries])),
    ]
    return page(f"{len(names)} reports", ", ".join(names), sections)


def _verdict(entry: Entry) -> Markup:
    verdict = entry.verdict
    words = el("p", prose(verdict.summary), class_="words")
    return el("article", el("h2", entry.name), words, answers(verdict), class_="entry")


def _speeds(comparison: Comparison) -> list[Markup]:
    charts = []
    for target in comparison.targets:
        rows = [(e, row) for e in comparison.entries for row in e.report.latency if row.target == target]
        marks = []
        for entry, row in rows:
            interval = row.speedup_interval
            low, high = (None, None) if interval is None else (interval.low, interval.high)
            words = f"{times(row.speedup)} {row.kind}"
            marks.append(Span(entry.name, row.speedup, low, high, row.kind == "modelled", words))
        said = "; ".join(f"{entry.name} {times(row.speedup)}, {known_as(row)}" for entry, row in rows)
        charts.append(figure(spans(marks, label=f"Speed-up on {target}: {said}"), target))
    return charts


def _schedule(entry: Entry) -> Markup:
    dense, pruned = entering(entry.report.plan)
    label = f"Tokens that enter each block of {entry.name}: dense {runs(dense)}; pruned {runs(pruned)}"
    return figure(steps(dense, pruned, label=label), entry.name, entry.report.strategy.name)
