"""`edgeprune compile`: decide, rewrite, prove, build, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.cli.errors import ExitCode, end_with
from edgeprune.cli.options import (
    budget_options,
    data_options,
    decision_options,
    force_option,
    json_option,
    make_options,
    option,
    require_one,
    run_options,
    shape_options,
    width_options,
    widths_asked,
)
from edgeprune.cli.output import show, show_json
from edgeprune.cli.progress import progress_for
from edgeprune.cli.state import general_options, state_of


@click.command("compile", short_help="Compile a model to fewer tokens or narrower blocks.")
@click.argument("model")
@option("--out", "-o", type=click.Path(path_type=Path), required=True, help="Folder to write; whole or not at all.")
@budget_options
@width_options
@option(
    "--plan",
    type=click.Path(path_type=Path),
    help="Apply this plan.json, or that of an output folder, instead of deciding.",
)
@option("--trust-plan", is_flag=True, help="Run code that the plan names; only for plans whose origin is known.")
@decision_options
@data_options
@shape_options
@option("--engine/--no-engine", default=True, show_default=True, help="Build engines for the targets.")
@option("--dense-engine", is_flag=True, help="Build the dense model's engines too, to compare.")
@run_options
@force_option
@json_option
@general_options
@click.pass_context
def compile_command(
    ctx: click.Context,
    /,
    model: str,
    out: Path,
    target: tuple[str, ...],
    keep: float | None,
    macs: float | None,
    plan: Path | None,
    as_json: bool,
    **given: Any,
) -> ExitCode:
    """Compile MODEL, an ONNX file or a PyTorch source, to fewer tokens or narrower blocks.

    A PyTorch source is timm:NAME, pkg.module:factory, or a .pt2 file. Give one of --keep, --macs and --plan;
    or --output-tokens, alone or beside --keep or --macs; or --mlp-keep, --heads-keep, --head-size-keep and
    --inner-keep, alone or beside --keep; or --params, or --latency.
    """
    alone = given["output_tokens"] is not None or widths_asked(given)
    if not alone or plan is not None or (keep is not None and macs is not None):
        require_one(keep=keep, macs=macs, plan=plan)
    from edgeprune import api
    from edgeprune.report.proofs import failed_proofs

    state = state_of(ctx)
    options = make_options(given, command=state.words)
    budget: dict[str, Any] = {"target": target, "keep": keep, "macs": macs, "plan": plan}
    result = api.compile(model, **budget, out=out, options=options, progress=progress_for(quiet=state.quiet))
    report = result.report
    if as_json:
        show_json(report)
    else:
        from edgeprune.report.terminal import render_report

        show(render_report(report))
    return end_with(failed_proofs(report.validation, report.lowerings, report.engines))
