"""Values of the file of options, brought into the form that click takes as defaults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgeprune.config import load_config, options_for

_GENERAL = frozenset({"config", "debug", "quiet", "help"})


def defaults_of(ctx: click.Context, config: Path | None) -> dict[str, Any]:
    """Values that the file holds for this command, by the name of the parameter."""
    values = load_config(config)
    if not values:
        return {}
    options = {path: set(params) for path, params in _commands(ctx.find_root().command)}
    picked = options_for(values, _path_of(ctx), options)
    return {params.name or name: _as_default(params, value) for name, params, value in _matched(ctx.command, picked)}


def _path_of(ctx: click.Context) -> str:
    return " ".join(ctx.command_path.split()[1:])


def _commands(command: click.Command, path: str = "") -> Iterator[tuple[str, dict[str, click.Option]]]:
    if not isinstance(command, click.Group):
        yield path, _options(command)
        return
    for name, inner in command.commands.items():
        yield from _commands(inner, f"{path} {name}".strip())


def _options(command: click.Command) -> dict[str, click.Option]:
    """Options by their first long name with underscores, which need not be the parameter's name (`--json`)."""
    named = {}
    for param in command.params:
        if isinstance(param, click.Option):
            first = next((opt for opt in param.opts if opt.startswith("--")), param.opts[0])
            name = first.lstrip("-").replace("-", "_")
            if name not in _GENERAL:
                named[name] = param
    return named


def _matched(command: click.Command, picked: dict[str, Any]) -> Iterator[tuple[str, click.Option, Any]]:
    options = _options(command)
    for name, value in picked.items():
        yield name, options[name], value


def _as_default(option: click.Option, value: Any) -> Any:
    """A table becomes pairs, and one value of an option that takes several becomes a list of it."""
    if not option.multiple:
        return value
    if isinstance(value, dict):
        return list(value.items())
    return value if isinstance(value, list) else [value]
