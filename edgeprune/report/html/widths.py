"""The section of a compile's page on widths: what was cut where, and what it cost there."""

from __future__ import annotations

from edgeprune.core.results import WidthReport
from edgeprune.report.html.markup import Markup
from edgeprune.report.html.parts import section, table
from edgeprune.report.report import Report
from edgeprune.report.words import small

_COLUMNS = ("block", "width", "kept", "of", "weights that stay", "held-out error", "without solving")


def widths_section(report: Report) -> Markup | None:
    """Every width that was cut; None where none was."""
    if not report.widths:
        return None
    made = table("Widths", _COLUMNS, [_row(row) for row in report.widths], left=2)
    note = "the error is that of the output that the units make, squared, over its variance, on samples held out"
    return section("widths", "Widths cut", made, note=note)


def _row(row: WidthReport) -> tuple[object, ...]:
    plain = "-" if row.untouched is None else small(row.untouched)
    method = f"{row.method}: {row.reason}" if row.reason else row.method
    error = "-" if row.error is None else small(row.error)
    return (row.block, row.kind, row.keep, row.of, method, error, plain)
