"""Help: every command and option has it, and it costs no heavy import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from edgeprune.cli.main import cli, run

HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "torch", "PIL", "sympy", "rich")


def commands(
    command: click.Command = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda part: " ".join(part) if isinstance(part, tuple) else ""
)
def test_every_command_and_option_explains_itself(path, command, capfd):
    assert run([*path, "--help"]) == 0
    shown = capfd.readouterr().out
    assert (command.help or "").split(".")[0].split()[0] in shown
    assert "Raises:" not in shown, f"{path} shows what is meant for readers of the code"
    if isinstance(command, click.Group):
        assert "..." not in shown.split("Commands:")[-1], f"{path} cuts the sentence of a command short"
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, f"{param.opts} of {path} has no help"


def test_targets_have_one_name_in_every_command():
    taking = {path: param for path, command in commands() for param in command.params if "-t" in param.opts}
    assert {path[0] for path in taking} == {"compile", "plan", "check", "latency"}
    assert {(*param.opts, param.envvar, param.name) for param in taking.values()} == {
        ("--target", "--targets", "-t", "EDGEPRUNE_TARGET", "target")
    }


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from edgeprune.cli.main import run; run(['compile', '--help']);"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_no_words_show_the_help_and_are_wrong_usage(capfd):
    assert run([]) == 2
    assert "compile" in capfd.readouterr().err


def test_version_is_the_installed_one(capfd):
    assert run(["--version"]) == 0
    assert capfd.readouterr().out == "edgeprune 0.1.0\n"


def test_exit_codes_are_in_the_help(capfd):
    run(["--help"])
    shown = " ".join(capfd.readouterr().out.split())
    for words in (
        "0 done",
        "1 refused, invalid input or interrupted",
        "2 wrong usage",
        "3 past a --max-drift limit",
        "70 a bug",
    ):
        assert words in shown


def test_python_m_is_the_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "edgeprune", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "edgeprune 0.1.0\n"
