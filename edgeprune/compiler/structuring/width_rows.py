"""Rows of the report on widths, from the plan and the file beside it: a plan that is given tells what it cost."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from edgeprune.core.results import WidthReport
from edgeprune.core.widths.groups import group_name
from edgeprune_calibration.solving import NO_RIDGE
from edgeprune_calibration.width_solving import COST, MEAN_ONLY, method_of

if TYPE_CHECKING:
    from edgeprune.core.plan import Plan, WidthCut
    from edgeprune.core.widths.arrays import Arrays


def rows_of(plan: Plan, arrays: Arrays) -> tuple[WidthReport, ...]:
    """One row a width that is cut; errors are None where the file does not hold them."""
    return tuple(_row(cut, arrays) for cut in plan.widths)


def _row(cut: WidthCut, arrays: Arrays) -> WidthReport:
    name = group_name(cut.kind, cut.block, cut.number)
    told = arrays.get(f"{name}/{COST}")
    error, untouched, ridge = (None, None, None) if told is None else (_known(float(value)) for value in told)
    method = method_of(cut.kind, ridge)
    return WidthReport(
        kind=cut.kind,
        block=cut.block,
        number=cut.number,
        keep=cut.keep,
        of=cut.of,
        method=method,
        ridge=ridge,
        error=error,
        untouched=untouched,
        reason=NO_RIDGE if method == MEAN_ONLY and told is not None else "",
    )


def _known(value: float) -> float | None:
    return None if isnan(value) else value
