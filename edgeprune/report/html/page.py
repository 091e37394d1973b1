"""A report as one page that needs nothing else: no network, no script, pictures and charts inside."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from edgeprune.report.html.details import engines_section, notes_section, origin_section, strategies_section
from edgeprune.report.html.markup import Markup, el, join, raw
from edgeprune.report.html.pictures import Pictures
from edgeprune.report.html.sections import (
    blocks_section,
    drift_section,
    speed_section,
    tokens_section,
    verdict_section,
)
from edgeprune.report.html.widths import widths_section
from edgeprune.report.report import Report
from edgeprune.report.verdict import verdict_of
from edgeprune.report.words import title_of

# Nothing may be loaded and nothing may run, whatever words find their way into a page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render_html(report: Report, folder: Path) -> str:
    """Make the page of a compile.

    Args:
        report: what was found out.
        folder: the output folder; pictures that the report names are read from it.
    """
    paths = [*(sample.image for sample in report.token_maps), *(worst.image for worst in report.worst_samples)]
    pictures = Pictures(folder, paths)
    title = title_of(report.source, report.model.sha256)
    sections = [
        verdict_section(verdict_of(report)),
        speed_section(report),
        blocks_section(report),
        drift_section(report, pictures),
        tokens_section(report, pictures),
        *([widths] if (widths := widths_section(report)) is not None else []),
        strategies_section(report),
        engines_section(report),
        notes_section(report),
        origin_section(report),
    ]
    return page(title, _subtitle(report), [pictures.definitions(), *sections])


def page(title: str, subtitle: str, parts: list[Markup]) -> str:
    """Put parts into a page of its own."""
    style = resources.files("edgeprune.report.html").joinpath("style.css").read_text(encoding="utf-8")
    head = el(
        "head",
        el("meta", charset="utf-8"),
        raw(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{title} - edgeprune"),
        raw(f"<style>\n{style}</style>"),
    )
    top = el("header", el("p", "edgeprune", class_="brand"), el("h1", title), el("p", subtitle), class_="top")
    body = el("body", top, el("main", join(parts, "\n")))
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def _subtitle(report: Report) -> str:
    model = report.model
    targets = f", for {', '.join(report.plan.targets)}" if report.plan.targets else ""
    return f"{model.blocks} blocks, {model.tokens} tokens, {report.strategy.name}{targets}"
