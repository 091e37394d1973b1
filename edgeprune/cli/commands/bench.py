"""`edgeprune bench`: measure on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from edgeprune.cli.options import force_option, json_option, make_options, option, run_options, shape_options, together
from edgeprune.cli.output import show, show_bytes
from edgeprune.cli.progress import progress_for
from edgeprune.cli.state import general_options, state_of
from edgeprune.core.plan import Precision
from edgeprune.core.whole import check_new, write_outputs
from edgeprune.options import Options

_measure_options = together(
    option(
        "--runtime", "-r", "runtimes", multiple=True, metavar="NAME[,NAME...]",
        help="onnxruntime-cpu, onnxruntime-cuda, onnxruntime-tensorrt, tensorrt, tensorrt-rtx; can be repeated. "
        "Default: all that run here.",
    ),
    option("--rounds", type=int, default=50, show_default=True, help="Timed rounds; each runs every model twice."),
    option(
        "--warm-up", type=int, default=10, show_default=True,
        help="Fewest runs before; more follow until times no longer change.",
    ),
    option("--data", help="Real inputs: images, .npy, .npz, or pkg.module:callable. Default: random numbers."),
    option(
        "--preprocess", default=str(Options().preprocess), show_default=True,
        help="imagenet, half, clip, or a TOML file: how images become inputs.",
    ),
    option("--samples", type=int, help="Take this many inputs of the data in turn.  [default: 8]"),
    option(
        "--precision", type=click.Choice(get_args(Precision)),
        help="Of the matrix products. Default: fp32 on the processor, fp16 on a GPU.",
    ),
)  # fmt: skip


@click.command("bench", short_help="Measure on this machine, dense and pruned in turn.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("pruned", type=click.Path(path_type=Path), required=False)
@_measure_options
@shape_options
@run_options
@option("--out", "-o", type=click.Path(path_type=Path), help="JSON file to write as well; whole or not at all.")
@force_option
@json_option
@general_options
@click.pass_context
def bench_command(
    ctx: click.Context,
    /,
    model: Path,
    pruned: Path | None,
    runtimes: tuple[str, ...],
    rounds: int,
    warm_up: int,
    out: Path | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Measure MODEL and PRUNED on this machine, in turn: `bench DENSE PRUNED`.

    PRUNED is a model or a folder that `edgeprune compile` wrote. `bench OUT` takes such a folder and finds the dense
    model by its report; `bench MODEL` measures one model alone.

    Each runtime is first checked to give the right outputs. Nothing that was measured is exit code 1.
    """
    from edgeprune import api
    from edgeprune.report.serialise import to_json

    state = state_of(ctx)
    if out is not None:
        check_new(out, force=given["force"])
    names = [name for word in runtimes for name in word.split(",") if name]
    counts = {"rounds": rounds, "warm_up": warm_up}
    options = make_options(given, command=state.words)
    progress = progress_for(quiet=state.quiet)
    report = api.bench(model, pruned, runtimes=names, **counts, options=options, progress=progress)
    if out is not None:
        write_outputs({out: to_json(report)})
    if as_json:
        show_bytes(to_json(report))
    else:
        from edgeprune.report.benched_terminal import render_bench

        show(render_bench(report))
    return 0 if any(row.models for row in report.rows) else 1
