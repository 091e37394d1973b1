"""`edgeprune passes`: the rewrites."""

from __future__ import annotations

import click

from edgeprune.cli.listing import find, print_kind, print_kinds
from edgeprune.cli.options import json_option
from edgeprune.cli.state import general_options


@click.group("passes", invoke_without_command=True)
@click.pass_context
def passes_group(ctx: click.Context, /) -> None:
    """List passes, or show one."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command)


@passes_group.command("list")
@json_option
@general_options
def list_command(as_json: bool) -> None:
    """List the passes, each with its sentence."""
    from edgeprune_passes.registry import passes

    print_kinds("Passes", passes(), as_json=as_json)


@passes_group.command("show")
@click.argument("name")
@json_option
@general_options
def show_command(name: str, as_json: bool) -> None:
    """Show what a pass does, when it refuses, and its options."""
    from edgeprune_passes.registry import passes

    print_kind(name, find("pass", name, passes()), as_json=as_json)
