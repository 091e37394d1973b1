"""`edgeprune validate`: prove a pruned model against its dense one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.cli.errors import ExitCode, end_with
from edgeprune.cli.options import data_options, json_option, make_options, run_options, shape_options
from edgeprune.cli.output import show, show_json
from edgeprune.cli.progress import progress_for
from edgeprune.cli.state import general_options, state_of


@click.command("validate", short_help="Prove a pruned model against its dense one.")
@click.argument("dense", type=click.Path(path_type=Path))
@click.argument("pruned", type=click.Path(path_type=Path))
@data_options
@shape_options
@run_options
@json_option
@general_options
@click.pass_context
def validate_command(ctx: click.Context, /, dense: Path, pruned: Path, as_json: bool, **given: Any) -> ExitCode:
    """Prove PRUNED against DENSE: identity, exactness, and drift on --data."""
    from edgeprune import api
    from edgeprune.report.proofs import failed_proofs

    state = state_of(ctx)
    options = make_options(given, command=state.words)
    progress = progress_for(quiet=state.quiet)
    report = api.validate(dense, pruned, data=options.data, options=options, progress=progress)
    if as_json:
        show_json(report)
    else:
        from edgeprune.report.terminal import render_validation

        show(render_validation(report))
    return end_with(failed_proofs(report.validation))
