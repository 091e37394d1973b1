"""What the sections of a page are made of: tables, figures, notes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgeprune.report.html.markup import Markup, el, join, raw, text
from edgeprune.report.verdict import Verdict


def section(key: str, title: str, *children: object, note: str = "") -> Markup:
    """A section with its heading beside it; nothing where it would hold nothing."""
    held = [child for child in children if child]
    if not held:
        return raw("")
    head = el("header", el("h2", title), el("p", note) if note else None)
    return el("section", head, el("div", *held, class_="body"), id=key, aria_label=title)


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> Markup:
    """A table; the first column names the rows, columns after the first `left` hold numbers."""
    heads = [el("th", name, scope="col", class_=None if i < left else "n") for i, name in enumerate(columns)]
    body = [_row(row, left) for row in rows]
    if not body:
        return raw("")
    made = el("table", el("caption", caption), el("thead", el("tr", *heads)), el("tbody", *body))
    return el("div", made, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _row(row: Sequence[object], left: int) -> Markup:
    first, *rest = row
    cells = [el("td", cell, class_=None if i < left else "n") for i, cell in enumerate(rest, 1)]
    return el("tr", el("th", first, scope="row"), *cells)


def figure(picture: Markup, title: str, note: str = "") -> Markup:
    """A chart with its title above it."""
    caption = el("figcaption", el("strong", title), " " if note else None, note or None)
    return el("figure", caption, picture)


def figures(made: Sequence[Markup]) -> Markup:
    """Charts side by side where there is room."""
    return el("div", *made, class_="figures") if made else raw("")


def more(summary: str, *children: object) -> Markup:
    """What only some readers want."""
    return el("details", el("summary", summary), *children)


def legend() -> Markup:
    """The two colours of all charts."""
    keys = (("dense", "dense"), ("pruned", "pruned"))
    return el("p", join(el("span", el("i", class_=f"key-{kind}"), words) for kind, words in keys), class_="legend")


def prose(words: str) -> Markup:
    """A sentence: what stands in backquotes is a name, a number stays with its unit, an option with its value."""
    tight = re.sub(r"(?<=\d) (?=%|ms\b)", "\u00a0", words)
    named = re.sub(r"`([^`]+)`", r"<code>\1</code>", text(tight))
    return raw(re.sub(r"(?<![\w>-])(--[a-z][a-z-]*(?: \d+(?:\.\d+)?)?)", r'<span class="option">\1</span>', named))


def code(words: object) -> Markup:
    """A name out of a model or a file."""
    return el("code", words)


def facts(pairs: Iterable[tuple[str, object]]) -> Markup:
    """Names with their values."""
    made = [el("div", el("dt", name), el("dd", value)) for name, value in pairs]
    return el("dl", *made, class_="facts") if made else raw("")


def answers(verdict: Verdict) -> Markup:
    """What a reader asks first, each with its figure."""
    made = [
        el(
            "div",
            el("dt", found.name),
            el("dd", el("b", found.figure), el("span", prose(found.words))),
            class_=found.tone,
        )
        for found in verdict.findings
    ]
    return el("dl", *made, class_="answers")
