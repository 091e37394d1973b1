"""How errors look, which exit code each has, and that a traceback needs --debug."""

from __future__ import annotations

import errno
import signal

import click
import pytest

from edgeprune.cli.errors import ExitCode, render_error
from edgeprune.cli.main import cli, run
from edgeprune.config import ConfigError
from edgeprune.core.errors import DataError, ModelError, PassError, PlanError, TargetError, ValidationError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelError("m", hint="h"), ExitCode.INVALID),
        (PlanError("m", hint="h"), ExitCode.INVALID),
        (DataError("m", hint="h"), ExitCode.INVALID),
        (TargetError("m", hint="h"), ExitCode.INVALID),
        (ValidationError("m", hint="h"), ExitCode.LIMIT),
        (ConfigError("m", hint="h"), ExitCode.USAGE),
    ],
)
def test_an_error_is_a_line_a_blank_line_and_a_hint(error, code, capsys):
    assert render_error(error, debug=False) == code
    captured = capsys.readouterr()
    assert captured.err == "error: m\n\nhint: h\n"
    assert captured.out == ""


def test_no_hint_leaves_no_blank_line(capsys):
    render_error(ModelError("m"), debug=False)
    assert capsys.readouterr().err == "error: m\n"


def test_a_broken_contract_of_a_pass_is_our_bug(capsys):
    assert render_error(PassError("reduce-tokens left a dangling value"), debug=False) == 70
    err = capsys.readouterr().err
    assert err.startswith("error: this is a bug in edgeprune: reduce-tokens left a dangling value\n\nhint: ")
    assert "--debug" in err


def test_anything_unexpected_is_our_bug(capsys):
    assert render_error(KeyError("x"), debug=False) == 70
    err = capsys.readouterr().err
    assert "this is a bug in edgeprune: KeyError: 'x'" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(capsys):
    try:
        raise PlanError("m", hint="h")
    except PlanError as error:
        render_error(error, debug=True)
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("error: m\n\nhint: h\n")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), click.Abort()])
def test_an_interruption_is_1(interruption, capsys):
    assert render_error(interruption, debug=False) == 1
    assert capsys.readouterr().err.startswith("error: interrupted; nothing was written\n\nhint: ")


def test_a_full_disk_is_the_users_matter(capsys):
    full = OSError(errno.ENOSPC, "No space left on device", "out/model.onnx")
    assert render_error(full, debug=False) == 1
    assert capsys.readouterr().err.startswith("error: No space left on device: `out/model.onnx`\n\nhint: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compile"], "Missing argument 'MODEL'"),
        (["compile", "m.onnx", "--keep", "1"], "Missing option '--out' / '-o'"),
        (["compile", "m.onnx", "-o", "out"], "give one of --keep, --macs and --plan"),
        (["compile", "m.onnx", "-o", "out", "--keep", "1", "--macs", "1"], "give one of --keep, --macs and --plan"),
        (["plan", "m.onnx"], "give one of --keep and --macs"),
        (["inspect", "m.onnx", "--input", "image"], "`image` is not of the form NAME:1x3x224x224"),
        (["compile", "m.onnx", "-o", "out", "--kep", "1"], "No such option"),
    ],
)
def test_wrong_usage_is_2_and_says_where_help_is(words, message, capfd):
    assert run(words) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert f"hint: `edgeprune {words[0]} --help` lists what can be given" in captured.err
    assert captured.out == ""


def test_no_colour_has_no_escapes(monkeypatch, capfd):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run(["compile"]) == 2
    assert "\x1b" not in capfd.readouterr().err


@pytest.mark.parametrize("before", [True, False])
def test_debug_counts_before_and_after_the_command(before, capfd):
    words = ["--debug", "targets", "show", "no-such"] if before else ["targets", "show", "no-such", "--debug"]
    assert run(words) == 1
    assert "Traceback" in capfd.readouterr().err


def test_every_error_of_a_command_is_rendered(capfd):
    @cli.command("explode")
    def explode() -> None:
        raise ZeroDivisionError("at once")

    try:
        assert run(["explode"]) == 70
    finally:
        del cli.commands["explode"]
    assert "this is a bug in edgeprune: ZeroDivisionError: at once" in capfd.readouterr().err


def test_ctrl_c_in_a_command_is_1(capfd):
    @cli.command("wait")
    def wait() -> None:
        signal.raise_signal(signal.SIGINT)

    try:
        assert run(["wait"]) == 1
    finally:
        del cli.commands["wait"]
    assert "Traceback" not in capfd.readouterr().err
