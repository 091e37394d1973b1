"""Several reports on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from edgeprune.report.comparison import Comparison
from edgeprune.report.terminal import LOUD, render_notes, table


def render_comparison(comparison: Comparison) -> RenderableType:
    """Lay out the verdict on each, then all in one table."""
    verdicts = [
        Text.assemble((f"{entry.name}  ", "bold"), (entry.verdict.summary, LOUD if entry.verdict.is_alarm else ""))
        for entry in comparison.entries
    ]
    made = table("Side by side", "", *[entry.name for entry in comparison.entries])
    for name, cells in comparison.rows():
        made.add_row(name, *cells)
    return Group(*verdicts, "", made, *render_notes((), comparison.notes()))
