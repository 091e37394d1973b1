"""A plan that is given instead of decided, and the weights of the widths that it cuts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.core.errors import PlanError
from edgeprune.core.plan import Plan, read_plan
from edgeprune.core.widths.arrays import FILE as WIDTHS
from edgeprune.core.widths.arrays import check_arrays, read_arrays

if TYPE_CHECKING:
    from edgeprune.core.widths.arrays import Arrays
    from edgeprune.options import Options


def given_arrays(place: Path | Plan | None, widths: Path | Arrays | None, given: Plan, options: Options) -> Arrays:
    """The weights of a given plan's widths.

    Args:
        place: the plan, its file, or the folder that a compile wrote.
        widths: the weights, or the file or folder where they lie; beside `place` without.
        given: the plan.
        options: what else is asked for.

    Raises:
        PlanError: if they are not there or not the plan's, or widths are asked for once more.
    """
    if options.width_shares:
        msg = "a plan is applied as it is, and shares of widths are asked for beside it"
        raise PlanError(msg, hint="leave out the plan to decide anew, or the shares")
    if not given.widths:
        return {}
    if widths is not None and not isinstance(widths, Path):
        return check_arrays(widths, given.widths_sha256)
    where = widths or (place if isinstance(place, Path) else None)
    if where is None:
        msg = "the plan cuts widths, and their weights are not given"
        raise PlanError(msg, hint="give widths=result.arrays, or the folder or widths.npz that was written with it")
    inside = where / WIDTHS if where.is_dir() else where
    return read_arrays(inside if inside.suffix == ".npz" else where.parent / WIDTHS, given.widths_sha256)


def given_plan(plan: Path | Plan | None) -> Plan | None:
    """The plan that is to be applied; None where one is to be decided.

    Raises:
        PlanError: if it cannot be read.
    """
    if not isinstance(plan, Path):
        return plan
    return read_plan(plan / "plan.json" if plan.is_dir() else plan)
