"""`edgeprune targets`: the devices that edgeprune knows."""

from __future__ import annotations

import click

from edgeprune.cli.listing import print_table, print_value
from edgeprune.cli.options import json_option
from edgeprune.cli.output import show_json
from edgeprune.cli.state import general_options


@click.group("targets", invoke_without_command=True)
@click.pass_context
def targets_group(ctx: click.Context, /) -> None:
    """List target profiles, or show one."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command)


@targets_group.command("list")
@json_option
@general_options
def list_command(as_json: bool) -> None:
    """List the target profiles that come with edgeprune or with an installed plug-in."""
    from edgeprune_targets.profiles import load_target, target_names

    targets = {name: load_target(name) for name in target_names()}
    if as_json:
        show_json(list(targets.values()))
        return
    print_table("Targets", {name: target.description for name, target in targets.items()})


@targets_group.command("show")
@click.argument("name")
@json_option
@general_options
def show_command(name: str, as_json: bool) -> None:
    """Show the numbers of one target profile, by name or from a TOML file."""
    from edgeprune_targets.profiles import load_target

    target = load_target(name)
    if as_json:
        show_json(target)
        return
    print_value(name, target)
