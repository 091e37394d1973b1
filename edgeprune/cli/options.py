"""Options that several commands share: one spelling, one help, one variable `EDGEPRUNE_<NAME>` each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_args

import click

from edgeprune.cli.types import AXES_LIST, COUNT_OR_SHARE, INPUT_SHAPE, LIMIT, NAMED_OPTION, PASS
from edgeprune.core.plan import Alignment, Precision, Restore
from edgeprune.options import AXES, DRIFT_METRICS, Options

F = TypeVar("F", bound=Callable[..., Any])

DEFAULTS = Options()


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """`click.option` with the variable that the house gives to an option of this name."""
    first = next(name for name in names if name.startswith("--"))
    word = first.partition("/")[0].lstrip("-").replace("-", "_").upper()
    return click.option(*names, envvar=f"EDGEPRUNE_{word}", **settings)


def together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Apply decorators so that their options stand in the help in this order."""

    def decorate(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


json_option = option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and nothing else there.")
force_option = option("--force", is_flag=True, help="Overwrite what exists.")

shape_options = together(
    option(
        "--input",
        "inputs",
        type=INPUT_SHAPE,
        metavar="NAME:1x3x224x224",
        multiple=True,
        help="Static shape of an input; can be repeated.",
    ),
    option("--batch", type=int, default=DEFAULTS.batch, show_default=True, help="Size of an open batch axis."),
)

sample_options = together(
    option("--data", help="Folder of images or arrays, .npy, .npz, or pkg.module:callable."),
    option(
        "--preprocess", default=str(DEFAULTS.preprocess), show_default=True,
        help="imagenet, half, clip, or a TOML file: how images become inputs.",
    ),
    option("--samples", type=int, help="Use at most this many samples of the data."),
)  # fmt: skip

data_options = together(
    sample_options,
    option("--reference", help="PyTorch source to validate against, instead of the ONNX file."),
    option(
        "--max-drift", type=LIMIT, multiple=True,
        help=f"Exit with 3 past this limit; can be repeated. Metrics: {', '.join(DRIFT_METRICS)}.",
    ),
)  # fmt: skip

run_options = together(
    option("--seed", type=int, default=DEFAULTS.seed, show_default=True, help="Of every pseudo-random choice."),
    option("--threads", type=int, default=DEFAULTS.threads, show_default=True, help="Of runs here; 0: the runtime's."),
)


def target_option(*, required: bool = False) -> Callable[[F], F]:
    """Targets, under one name for the variable and the file of options, whatever the command does with them."""
    return option(
        "--target", "--targets", "-t", multiple=True, required=required, metavar="NAME[@MODE][,NAME...]",
        help="Target by name, or a TOML file; several with commas between, or repeated.",
    )  # fmt: skip


budget_options = together(
    target_option(),
    option("--keep", type=float, help="Share of patch-token work to keep, averaged over the blocks, in (0, 1]."),
    option("--macs", type=float, help="Share of the whole model's MACs to keep, in (0, 1]."),
)

width_options = together(
    option("--mlp-keep", type=float, help="Share of the MLPs' channels to keep, over all blocks, in (0, 1]."),
    option("--inner-keep", type=float, help="Share of the channels between the projections of Mamba blocks to keep."),
    option("--heads-keep", type=float, help="Share of the attention heads to keep; costs more than the other two."),
    option("--params", type=float, help="Share of the whole model's parameters to keep, in (0, 1]."),
    option("--latency", type=float, help="Share of the dense model's modelled latency on the targets, in (0, 1]."),
    option("--latency-ms", type=float, help="The same in milliseconds: modelled, on the slowest of the targets."),
    option(
        "--axes", type=AXES_LIST, default=(), metavar="AXIS,AXIS",
        help=f"What --macs, --params or --latency is divided among: {', '.join(AXES)}.",
    ),
    option("--head-size-keep", type=float, help="Share of every head's coordinates to keep, by rotation."),
)  # fmt: skip

scan_option = option(
    "--scan", type=click.Choice(("auto", "loop", "chunked")), default=DEFAULTS.scan, show_default=True,
    help="Form of selective scans; auto: a loop in model.onnx, chunks for TensorRT, which runs loops step by step.",
)  # fmt: skip

decision_options = together(
    option("--strategy", "-s", default=DEFAULTS.strategy, show_default=True, help="Strategy by name, or auto."),
    option(
        "--strategy-option", "strategy_options", type=NAMED_OPTION, multiple=True,
        help="Option of the strategy; can be repeated.",
    ),
    option(
        "--output-tokens", type=COUNT_OR_SHARE,
        help="Patch tokens that leave for a language model: a count, or a share such as 0.25. Outputs get shorter, and "
        "a new output `kept_indices` names the patches.",
    ),
    option(
        "--output-strategy", default=DEFAULTS.output_strategy, show_default=True,
        help="How those are chosen: a strategy by name, or auto.",
    ),
    option(
        "--output-option", "output_options", type=NAMED_OPTION, multiple=True,
        help="Option of that strategy; can be repeated.",
    ),
    option(
        "--restore", type=click.Choice(get_args(Restore)), default=DEFAULTS.restore, show_default=True,
        help="How tokens come back where the head or an output needs all of them.",
    ),
    option(
        "--alignment", type=click.Choice(("auto", *get_args(Alignment))), default=DEFAULTS.alignment, show_default=True,
        help="What selective scans behind a cut make of tokens that are gone: see the card of reduce-tokens.",
    ),
    option(
        "--tail-elimination/--no-tail-elimination", default=DEFAULTS.tail_elimination, show_default=True,
        help="Compute only the rows that the head reads in the last block.",
    ),
    option(
        "--cuts", type=int,
        help="At most this many cuts. Default: four, or as many fewer as the targets run faster.",
    ),
    option(
        "--pass", "passes", type=PASS, multiple=True,
        help="A further pass to run on the reduced graph; can be repeated.",
    ),
    option(
        "--search", type=int, default=DEFAULTS.search, show_default=True,
        help="Schedules to try on the data beside the default curve.",
    ),
    option(
        "--precision", type=click.Choice(get_args(Precision)),
        help="Of the engine. Default: fp16 with a target, fp32 without.",
    ),
    option("--tensorrt", help="Version of TensorRT on the devices, such as 10.3. Default: the one of the profile."),
    option(
        "--fused-attention/--no-fused-attention", default=DEFAULTS.fused_attention, show_default=True,
        help="Let the runtime fuse attention; no where its fused kernels are wrong.",
    ),
    scan_option,
)  # fmt: skip


def make_options(given: Mapping[str, Any], *, command: Iterable[str] = ()) -> Options:
    """Gather what was given into `Options`; repeated pairs become tables."""
    tables = ("inputs", "max_drift", "strategy_options", "output_options")
    settings: dict[str, Any] = {name: dict(value) if name in tables else value for name, value in given.items()}
    return Options(**settings, command=tuple(command))


def widths_asked(given: Mapping[str, Any]) -> bool:
    """Whether any share of a width was given, or a budget of parameters or modelled latency."""
    names = ("mlp_keep", "inner_keep", "heads_keep", "head_size_keep", "params", "latency", "latency_ms")
    return any(given[name] is not None for name in names)


def require_one(**budgets: object) -> None:
    """Check that just one of these options was given.

    Raises:
        click.UsageError: if none was, or several were.
    """
    if sum(value is not None for value in budgets.values()) == 1:
        return
    *first, last = (f"--{name}" for name in budgets)
    msg = f"give one of {', '.join(first)} and {last}"
    raise click.UsageError(msg, click.get_current_context(silent=True))
