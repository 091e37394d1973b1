"""`edgeprune check`: would it build?"""

from __future__ import annotations

from typing import Any, get_args

import click

from edgeprune.cli.errors import ExitCode
from edgeprune.cli.options import (
    json_option,
    make_options,
    option,
    run_options,
    scan_option,
    shape_options,
    target_option,
)
from edgeprune.cli.output import show, show_json
from edgeprune.cli.progress import progress_for
from edgeprune.cli.state import general_options, state_of
from edgeprune.core.plan import Precision


@click.command("check", short_help="Say what stands against an engine, without the device.")
@click.argument("model")
@target_option(required=True)
@option("--tensorrt", help="Version of TensorRT on the devices, as 10.3. Default: the one that each profile assumes.")
@option("--precision", type=click.Choice(get_args(Precision)), help="Of the engine.  [default: fp16]")
@option(
    "--fused-attention/--no-fused-attention",
    default=True,
    show_default=True,
    help="Let the runtime fuse attention, or lower it so that none does.",
)
@scan_option
@option("--build/--no-build", default=True, show_default=True, help="Try a real TensorRT-RTX build where that can be.")
@shape_options
@run_options
@json_option
@general_options
@click.pass_context
def check_command(
    ctx: click.Context,
    /,
    model: str,
    target: tuple[str, ...],
    build: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Say whether MODEL would build on each target, and what stands against it: node, reason, what to do.

    The graph is lowered for the target's runtime, proved equal in ONNX Runtime, held against what that runtime takes,
    and built by TensorRT-RTX for targets that it builds for. No GPU is needed. A model in which no tokens can be cut is
    checked as it is. Exit code 1 if it would not build on one of the targets.
    """
    from edgeprune import api

    state = state_of(ctx)
    options = make_options(given, command=state.words)
    report = api.check(model, target, build=build, options=options, progress=progress_for(quiet=state.quiet))
    if as_json:
        show_json(report)
    else:
        from edgeprune.report.checked_terminal import render_check

        show(render_check(report))
    return ExitCode.DONE if report.would_build else ExitCode.INVALID
