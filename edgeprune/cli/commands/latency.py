"""`edgeprune latency`: how long a model would take on devices that are not here."""

from __future__ import annotations

from typing import Any, get_args

import click

from edgeprune.cli.options import json_option, make_options, option, shape_options, target_option
from edgeprune.cli.output import show, show_json
from edgeprune.cli.state import general_options
from edgeprune.core.plan import Precision


@click.command("latency", short_help="Model the latency of a model on targets, without them.")
@click.argument("model")
@target_option(required=True)
@option("--compare", metavar="MODEL", help="A second model, such as the pruned one: its speed-up is modelled too.")
@option("--precision", type=click.Choice(get_args(Precision)), help="Of the matrix products.  [default: fp16]")
@option("--blocks", is_flag=True, help="Show the time of each transformer block too.")
@shape_options
@json_option
@general_options
def latency_command(
    model: str, target: tuple[str, ...], compare: str | None, blocks: bool, as_json: bool, **given: Any
) -> None:
    """Model how long MODEL takes on each target: a median with an 80 % interval. Nothing is run or measured.

    Any model with static shapes will do, also one in which no tokens can be cut. With --compare the speed-up of a
    second model, such as the pruned one, is modelled, with an interval of its own.
    """
    from edgeprune import api

    found = api.latency(model, target, compare=compare, options=make_options(given))
    if as_json:
        show_json(found)
        return
    from edgeprune.report.modelled_terminal import render_latency

    show(render_latency(found, blocks=blocks))
