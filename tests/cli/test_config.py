"""Options from the command line, from variables and from a file, and which of them wins."""

from __future__ import annotations

import json

import click
import pytest

from edgeprune.cli.main import cli, run
from edgeprune.cli.options import budget_options, data_options, make_options, option, shape_options
from edgeprune.cli.state import general_options


@pytest.fixture
def probe(tmp_path, monkeypatch, capfd):
    """Run a command that has the real options and prints what arrived."""

    @cli.command("probe")
    @budget_options
    @data_options
    @shape_options
    @option("--strategy", default="auto")
    @general_options
    def probe_command(**given):
        click.echo(json.dumps(given, default=str))

    monkeypatch.chdir(tmp_path)

    def arrived(*words, file=""):
        (tmp_path / "edgeprune.toml").write_text(file)
        assert run(["probe", *words]) == 0, capfd.readouterr().err
        return json.loads(capfd.readouterr().out)

    yield arrived
    del cli.commands["probe"]


def test_the_file_gives_defaults(probe):
    got = probe(file='keep = 0.6\ntarget = ["rtx-4090", "l4"]\ndata = "photos"')
    assert (got["keep"], got["target"], got["data"]) == (0.6, ["rtx-4090", "l4"], "photos")


def test_variables_beat_the_file(probe, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_KEEP", "0.7")
    monkeypatch.setenv("EDGEPRUNE_TARGET", "l4 t4")
    got = probe(file='keep = 0.6\ntarget = "rtx-4090"')
    assert (got["keep"], got["target"]) == (0.7, ["l4", "t4"])


def test_the_command_line_beats_variables(probe, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_KEEP", "0.7")
    assert probe("--keep", "0.8", file="keep = 0.6")["keep"] == 0.8


def test_a_table_of_the_command_beats_the_top(probe):
    got = probe(file='keep = 0.6\nstrategy = "tome"\n[probe]\nkeep = 0.5\n[compile]\nkeep = 0.4')
    assert (got["keep"], got["strategy"]) == (0.5, "tome")


def test_one_word_is_a_list_of_one(probe):
    assert probe(file='target = "rtx-4090"')["target"] == ["rtx-4090"]


def test_pairs_are_tables_or_words(probe):
    assert probe(file="max-drift = {kl = 0.05}")["max_drift"] == [["kl", 0.05]]
    assert probe(file='max_drift = ["kl=0.05"]')["max_drift"] == [["kl", 0.05]]
    assert probe(file='input = {image = "1x3x32x32", mask = [1, 16]}')["inputs"] == [
        ["image", [1, 3, 32, 32]],
        ["mask", [1, 16]],
    ]


def test_options_of_other_commands_are_left_to_them(probe):
    assert "exporter" not in probe(file='exporter = "torchscript"\n[export]\nopset = 17')


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("kep = 0.6", "error: no such option in the file of options: `kep`\n\nhint: did you mean `keep`?"),
        ("[compile]\nexporter = 1", "error: no such option in the file of options: `compile.exporter`"),
        ("keep = ", "error: `edgeprune.toml` is no TOML: "),
    ],
)
def test_a_wrong_file_is_wrong_usage(file, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edgeprune.toml").write_text(file)
    assert run(["targets", "list"]) == 2
    assert capfd.readouterr().err.startswith(message)


def test_a_named_file_must_be_there(tmp_path, capfd):
    missing = tmp_path / "no.toml"
    assert run(["targets", "list", "--config", str(missing)]) == 2
    assert capfd.readouterr().err == (
        f"error: cannot read the options in `{missing}`: No such file or directory\n\n"
        "hint: name another file with --config, or leave it out\n"
    )


@pytest.mark.parametrize("before", [True, False])
def test_the_file_can_be_named_before_and_after_the_command(before, tmp_path, capfd):
    file = tmp_path / "options.toml"
    file.write_text("json = true")
    named = ["--config", str(file)]
    assert run([*named, "targets", "list"] if before else ["targets", "list", *named]) == 0
    assert json.loads(capfd.readouterr().out)


def test_pairs_become_tables_of_options():
    options = make_options({"inputs": (("image", (1, 3, 8, 8)),), "max_drift": (("kl", 0.1),), "strategy_options": ()})
    assert (options.inputs, options.max_drift, options.strategy_options) == ({"image": (1, 3, 8, 8)}, {"kl": 0.1}, {})
