"""`edgeprune inspect`: what is recognised in a model."""

from __future__ import annotations

from typing import Any

import click

from edgeprune.cli.options import json_option, make_options, shape_options
from edgeprune.cli.output import show, show_json
from edgeprune.cli.state import general_options


@click.command("inspect", short_help="Show what is recognised in a model, and what is refused.")
@click.argument("model")
@shape_options
@json_option
@general_options
def inspect_command(model: str, as_json: bool, **given: Any) -> None:
    """Show what is recognised in MODEL: blocks, tokens, cut points, refusals, strategies that apply."""
    from edgeprune import api

    inspection = api.inspect(model, options=make_options(given))
    if as_json:
        show_json(inspection)
        return
    from edgeprune.report.inspection_terminal import render_inspection

    show(render_inspection(inspection))
