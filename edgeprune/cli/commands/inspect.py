"""`edgeprune inspect`: what is recognised in a model."""

from __future__ import annotations

from typing import Any

import click

from edgeprune.cli.options import json_option, make_options, option, sample_options, shape_options
from edgeprune.cli.output import show, show_json
from edgeprune.cli.progress import progress_for
from edgeprune.cli.state import general_options, state_of


@click.command("inspect", short_help="Show what is recognised in a model, and what is refused.")
@click.argument("model")
@option("--sensitivity", is_flag=True, help="Measure on --data what each cut of a width would save and lose, alone.")
@sample_options
@shape_options
@json_option
@general_options
@click.pass_context
def inspect_command(ctx: click.Context, /, model: str, sensitivity: bool, as_json: bool, **given: Any) -> None:
    """Show what is recognised in MODEL: blocks, tokens, cut points, widths, refusals, strategies that apply."""
    from edgeprune import api

    progress = progress_for(quiet=state_of(ctx).quiet)
    inspection = api.inspect(model, sensitivity=sensitivity, options=make_options(given), progress=progress)
    if as_json:
        show_json(inspection)
        return
    from edgeprune.report.inspection_terminal import render_inspection

    show(render_inspection(inspection))
