"""Progress: only where someone looks."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from edgeprune.cli.progress import TerminalProgress, progress_for
from edgeprune.core.progress import SILENT

IN_TERMINAL = """
from edgeprune.cli.progress import progress_for
with progress_for(quiet={quiet}).stage("measuring drift", 4) as stage:
    stage.advance(2)
print("done")
"""


def run_with_terminal_as_stderr(*, quiet=False, **variables):
    """Run a stage in a fresh interpreter whose stderr is a pseudo-terminal; return stdout and what the terminal got."""
    pty = pytest.importorskip("pty", reason="pseudo-terminals are of POSIX")
    reading, writing = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "CI"}}
    environment = clean | {"TERM": "xterm-256color"} | variables
    code = IN_TERMINAL.format(quiet=quiet)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writing, env=environment, check=True
    )
    os.write(writing, b"\nend")
    os.close(writing)
    shown = b""
    while not shown.endswith(b"end"):
        shown += os.read(reading, 4096)
    os.close(reading)
    return done.stdout, shown


def test_a_terminal_sees_the_stage_and_stdout_only_data():
    out, shown = run_with_terminal_as_stderr()
    assert b"measuring drift" in shown
    assert out == b"done\n"


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"CI": "true"}, {"TERM": "dumb"}])
def test_some_ask_for_silence(variables):
    _, shown = run_with_terminal_as_stderr(**variables)
    assert b"measuring" not in shown


def test_quiet_is_silent():
    _, shown = run_with_terminal_as_stderr(quiet=True)
    assert b"measuring" not in shown


def test_a_pipe_is_silent(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert progress_for(quiet=False) is SILENT


def test_stages_nest_and_end_on_errors():
    progress = TerminalProgress()

    def work():
        with progress.stage("outer"), progress.stage("inner", 2) as stage:
            stage.advance()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert progress._open == 0
    assert not progress._bars.tasks
