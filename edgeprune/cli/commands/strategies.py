"""`edgeprune strategies`: the ways to choose or merge tokens."""

from __future__ import annotations

import click

from edgeprune.cli.listing import find, print_kind, print_kinds
from edgeprune.cli.options import json_option
from edgeprune.cli.state import general_options


@click.group("strategies", invoke_without_command=True)
@click.pass_context
def strategies_group(ctx: click.Context, /) -> None:
    """List token-reduction strategies, or show one."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command)


@strategies_group.command("list")
@json_option
@general_options
def list_command(as_json: bool) -> None:
    """List the strategies, each with its sentence."""
    from edgeprune_passes.registry import strategies

    print_kinds("Strategies", strategies(), as_json=as_json)


@strategies_group.command("show")
@click.argument("name")
@json_option
@general_options
def show_command(name: str, as_json: bool) -> None:
    """Show what a strategy does, when it refuses, and its options."""
    from edgeprune_passes.registry import strategies

    print_kind(name, find("strategy", name, strategies()), as_json=as_json)
