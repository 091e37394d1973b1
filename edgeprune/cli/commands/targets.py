"""`edgeprune targets`: the devices that edgeprune knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import json_option
from edgeprune.cli.output import show, show_bytes, show_json
from edgeprune.cli.state import general_options

if TYPE_CHECKING:
    from edgeprune_targets.profiles import Target


@click.group("targets", invoke_without_command=True, help="List target profiles, or show one.")
@json_option
@click.pass_context
def targets_group(ctx: click.Context, /, as_json: bool) -> None:
    """List target profiles, or show one.

    Raises:
        click.UsageError: for --json in front of a further command.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)
    elif as_json and ctx.get_parameter_source("as_json") is click.core.ParameterSource.COMMANDLINE:
        msg = f"--json stands behind `{ctx.invoked_subcommand}`, not in front of it"
        raise click.UsageError(msg, ctx)


@targets_group.command("list")
@json_option
@general_options
def list_command(as_json: bool) -> None:
    """List the target profiles, those of plug-ins too."""
    from edgeprune_targets.profiles import OLDEST_TENSORRT, load_target, target_aliases, target_names

    targets = [load_target(name) for name in target_names()]
    if as_json:
        show_json(targets)
        return
    _print_list(targets)
    show("A name stands for the first of its modes, as the numbers do; NAME@MODE for another.")
    if not all(target.buildable for target in targets):
        show(f"Too old: models are lowered for TensorRT {OLDEST_TENSORRT} and newer; such a device is modelled only.")
    show("Aliases: " + ", ".join(f"{alias} = {name}" for alias, name in sorted(target_aliases().items())))


@targets_group.command("show")
@click.argument("name", metavar="NAME[@MODE]")
@click.option("--toml", "as_toml", is_flag=True, help="Print the profile as it stands in its file, to copy from.")
@json_option
@general_options
def show_command(name: str, as_json: bool, as_toml: bool) -> None:
    """Show one target with the source of each number.

    It is named, in one of its power modes or in its first, or read from a TOML file.
    """
    from edgeprune_targets.profiles import load_target, profile_text

    if as_toml:
        show_bytes(profile_text(name).encode())
        return
    target = load_target(name)
    if as_json:
        show_json(target)
        return
    _print_target(target)


def _print_list(targets: Iterable[Target]) -> None:
    from edgeprune.report.terminal import table

    made = table("Targets", "name", "device", "modes", "compute", "fp16 TFLOPS", "GB/s", "TensorRT", left=3)
    for target in targets:
        peaks = (f"{target.fp16_dense_tflops:g}", f"{target.memory_bandwidth_gbs:g}")
        version = target.default_tensorrt if target.buildable else f"{target.default_tensorrt}, too old"
        made.add_row(target.name, target.device, ", ".join(target.modes), target.compute_capability, *peaks, version)
    show(made)


def _print_target(target: Target) -> None:
    from edgeprune.report.terminal import table

    show(f"{target.name}: {target.description}\n")
    facts = table("What it is", "field", "value", left=2)
    for field, value in _facts(target):
        facts.add_row(field, value)
    show(facts)
    numbers = table("Numbers of this mode", "field", "value", "status", "source", left=4)
    for row in _numbers(target):
        numbers.add_row(*row)
    show(numbers)
    if target.software:
        software = table("Software", "JetPack", "L4T", "TensorRT", left=3)
        for each in target.software:
            default = ", assumed if none is named" if each.tensorrt == target.default_tensorrt else ""
            software.add_row(each.jetpack, each.l4t, each.tensorrt + default)
        show(software)
    for note in target.notes:
        show(f"note: {note}")


def _facts(target: Target) -> list[tuple[str, str]]:
    mode = target.power_mode + (f", `nvpmodel -q` says {target.nvpmodel}" if target.nvpmodel else "")
    facts = [
        ("aliases", _joined(target.aliases)),
        ("architecture", f"{target.architecture}, compute capability {target.compute_capability}"),
        ("power mode", mode),
        ("modes", _joined([f"{target.profile}@{mode}" for mode in target.modes]) if len(target.modes) > 1 else ""),
        ("runtime", target.runtime),
        ("builders", _joined(target.builders)),
        ("TensorRT", f"{_joined(target.tensorrt)}; {target.default_tensorrt} is assumed"),
        ("widths", _widths(target)),
    ]
    return [(field, value) for field, value in facts if value]


def _widths(target: Target) -> str:
    """What widths are cut to on this target, and how sure that is."""
    from edgeprune_targets.width_alignment import width_alignment

    at = width_alignment((target,))
    sure = at.sources["mlp_step"].status
    heads = f"head sizes of {at.head_size_step} from {at.smallest_head_size} on, {at.fewest_heads} heads or more"
    return f"MLPs are cut in steps of {at.mlp_step} ({sure}), {heads}"


def _numbers(target: Target) -> list[tuple[str, str, str, str]]:
    """Field, value with unit, status and source of each number that the device has, then of what else has a source."""
    from edgeprune_targets.profiles import NUMBERS

    values = {
        field: f"{getattr(target, field):g} {kind.unit}".rstrip()
        for field, kind in NUMBERS.items()
        if getattr(target, field)  # what the device has none of is None or 0
    }
    others = {"nvpmodel": target.nvpmodel, "tensorrt": _joined(target.tensorrt), "software": "see below"}
    values |= {field: value for field, value in others.items() if field in target.sources}
    rows: list[tuple[str, str, str, str]] = []
    above = None
    for field, value in values.items():
        source = target.sources.get(field)
        text = "as above" if source and source == above else source.text if source else "not stated"
        rows.append((field, value, source.status if source else "", text))
        above = source
    return rows


def _joined(words: Sequence[str]) -> str:
    return ", ".join(words)
