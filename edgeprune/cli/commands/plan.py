"""`edgeprune plan`: decide, and write the decision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.cli.options import (
    budget_options,
    data_options,
    decision_options,
    force_option,
    make_options,
    option,
    require_one,
    run_options,
    shape_options,
    width_options,
    widths_asked,
)
from edgeprune.cli.output import show_bytes
from edgeprune.cli.progress import progress_for
from edgeprune.cli.state import general_options, state_of
from edgeprune.core.whole import check_new, write_outputs


@click.command("plan", short_help="Decide how a model would be compiled, and write plan.json.")
@click.argument("model")
@option("--out", "-o", type=click.Path(path_type=Path), help="File to write; stdout without.")
@budget_options
@width_options
@decision_options
@data_options
@shape_options
@run_options
@force_option
@general_options
@click.pass_context
def plan_command(
    ctx: click.Context,
    /,
    model: str,
    out: Path | None,
    target: tuple[str, ...],
    keep: float | None,
    macs: float | None,
    **given: Any,
) -> None:
    """Decide how MODEL would be compiled and write plan.json, for `compile --plan`.

    Give one of --keep and --macs; or --output-tokens, alone or beside them; or --params or --latency; or shares of
    widths, alone or beside --keep: their weights are written to widths.npz beside the plan.
    """
    alone = given["output_tokens"] is not None or widths_asked(given)
    if not alone or (keep is not None and macs is not None):
        require_one(keep=keep, macs=macs)
    from edgeprune import api
    from edgeprune.core.plan import plan_to_json
    from edgeprune.core.widths.arrays import FILE as WIDTHS

    state = state_of(ctx)
    if out is not None:
        check_new(out, force=given["force"])
    options = make_options(given, command=state.words)
    progress = progress_for(quiet=state.quiet)
    widths = out.parent / WIDTHS if out is not None else None
    decided = api.plan(model, target=target, keep=keep, macs=macs, widths=widths, options=options, progress=progress)
    if out is None:
        show_bytes(plan_to_json(decided))
        return
    write_outputs({out: plan_to_json(decided)})
