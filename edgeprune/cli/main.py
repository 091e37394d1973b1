"""The program `edgeprune`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from edgeprune.cli.commands.bench import bench_command
from edgeprune.cli.commands.check import check_command
from edgeprune.cli.commands.compile import compile_command
from edgeprune.cli.commands.export import export_command
from edgeprune.cli.commands.inspect import inspect_command
from edgeprune.cli.commands.latency import latency_command
from edgeprune.cli.commands.passes import passes_group
from edgeprune.cli.commands.plan import plan_command
from edgeprune.cli.commands.report import report_command
from edgeprune.cli.commands.strategies import strategies_group
from edgeprune.cli.commands.targets import targets_group
from edgeprune.cli.commands.validate import validate_command
from edgeprune.cli.errors import ExitCode, render_error
from edgeprune.cli.state import State, general_options

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

_EPILOG = """Options can also be given as EDGEPRUNE_* variables and in edgeprune.toml; the command line beats the
variables, and these beat the file. Exit codes: 0 done, 1 refused, invalid input or interrupted, 2 wrong usage,
3 past a --max-drift limit, 4 a proof failed, 70 a bug in edgeprune."""


@click.group("edgeprune", context_settings=_SETTINGS, epilog=_EPILOG)
@click.version_option(package_name="edgeprune", prog_name="edgeprune", message="%(prog)s %(version)s")
@general_options
def cli() -> None:
    """Compile exported transformers to fit edge devices: fewer tokens, static shapes, proved and measured."""


for _command in (
    compile_command,
    plan_command,
    inspect_command,
    export_command,
    validate_command,
    report_command,
    bench_command,
    check_command,
    latency_command,
    targets_group,
    strategies_group,
    passes_group,
):
    cli.add_command(_command)


def run(words: Sequence[str]) -> int:
    """Run the program and return its exit code; every error is rendered, none is raised."""
    state = State(words=tuple(words))
    try:
        code = cli.main(list(words), prog_name="edgeprune", standalone_mode=False, obj=state)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (the last catch: what is not ours is a bug of ours)
        return render_error(error, debug=state.debug or "--debug" in words)
    return code if isinstance(code, int) else ExitCode.DONE


def main() -> NoReturn:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))
