"""What the README says exists: commands, options, make targets, files, names of the Python interface."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

import edgeprune
from edgeprune.cli.main import cli
from edgeprune.config import options_for, tomllib

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "passes/README.md", "demo/README.md"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def lines(program: str) -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.startswith(f"{program} ")]


@pytest.mark.parametrize("line", lines("edgeprune"))
def test_every_command_is_understood(line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)[1:]
    context, command = click.Context(cli, info_name="edgeprune"), cli
    while isinstance(command, click.Group) and words:
        command = command.commands[words.pop(0)]
    context = command.make_context(command.name, words, parent=context)
    assert context.command is command


def test_every_target_is_known():
    from edgeprune_targets.profiles import load_targets

    named = {word for line in lines("edgeprune") for word in re.findall(r"--target (\S+)", line)}
    assert named
    for target in named:
        assert load_targets(target)


def test_every_command_is_shown():
    shown = {line.split()[1] for line in lines("edgeprune")}
    assert shown == set(cli.commands)


def test_every_make_target_exists():
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    wanted = {line.split()[1] for line in lines("make")} | set(re.findall(r"`make ([a-z-]+)`", TEXT))
    assert {"demo", "test"} <= wanted
    assert wanted <= set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))


def test_every_extra_is_declared():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = set(re.findall(r"\[(\w+)\]\"", TEXT)) | {"gpu", "tensorrt", "graphsurgeon"}
    assert {"torch", "rtx"} <= named <= set(project["optional-dependencies"])


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    file = PROJECT / page
    for link in re.findall(r"\]\(([^)#]+)\)", file.read_text(encoding="utf-8")):
        assert (file.parent / link).exists(), link


def test_the_python_example_uses_names_that_exist():
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "edgeprune":
                assert node.attr in edgeprune.__all__


def test_the_file_of_options_is_accepted():
    options = {name: {param.name for param in command.params} for name, command in cli.commands.items()}
    for block in blocks("toml"):
        if "compute_capability" in block:
            continue  # a profile, see below
        got = options_for(tomllib.loads(block), "compile", options)
        assert {"data", "target", "keep", "max_drift"} <= set(got)


def test_the_profile_is_a_target(tmp_path):
    from edgeprune_targets.profiles import load_target

    (profile,) = [block for block in blocks("toml") if "compute_capability" in block]
    path = tmp_path / "my-board.toml"
    path.write_text(profile, encoding="utf-8")
    target = load_target(path)
    assert (target.name, target.modes, target.sm, target.default_tensorrt) == ("my-board", ("default",), "sm86", "10.3")
    required = [line.partition(" ")[0] for line in profile.splitlines() if "=" in line and "default_" not in line]
    for field in required:  # no line of it could be left out
        path.write_text("".join(line for line in profile.splitlines(keepends=True) if not line.startswith(f"{field} ")))
        with pytest.raises(edgeprune.TargetError, match=field):
            load_target(path)


def test_every_exit_code_is_explained():
    from edgeprune.cli.errors import ExitCode

    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, flags=re.MULTILINE)}
    assert explained == {int(code) for code in ExitCode}
