"""`edgeprune report`: show what a compile found out, complete it, compare."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.cli.options import force_option, json_option, option
from edgeprune.cli.output import show, show_json
from edgeprune.cli.state import general_options


@click.command("report", short_help="Show the report of a compile as a page, or compare several.")
@click.argument("places", metavar="OUT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Page to write. Default for one: OUT/report.html.")
@option(
    "--measured",
    type=click.Path(path_type=Path),
    help="What deploy/bench.sh or `edgeprune bench -o` wrote, to be folded into the report.",
)
@force_option
@json_option
@general_options
def report_command(
    places: tuple[Path, ...], out: Path | None, measured: Path | None, force: bool, as_json: bool
) -> None:
    """Show the report of each OUT, a folder that `compile` wrote or its report.json.

    One: its gist on the terminal, and the page OUT/report.html anew. Several: side by side, with -o as one page.
    """
    from edgeprune import api

    if len(places) == 1:
        made = api.report(places[0], measured=measured, out=out, force=force)
        if as_json:
            show_json(made)
            return
        from edgeprune.report.terminal import render_report

        show(render_report(made))
        return
    _refuse_measured(measured)
    compared = api.compare(places, out=out, force=force)
    if as_json:
        show_json(compared)
        return
    from edgeprune.report.comparison_terminal import render_comparison

    show(render_comparison(compared))


def _refuse_measured(measured: Path | None) -> None:
    """Check that a device's numbers were given for one report only.

    Raises:
        click.UsageError: if they were given for several.
    """
    if measured is not None:
        msg = "--measured is for one report"
        raise click.UsageError(msg, click.get_current_context(silent=True))
