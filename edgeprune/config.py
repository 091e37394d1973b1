"""Options from a file: `edgeprune.toml`.

Keys are the long names of options (`max-drift` or `max_drift`). Keys on top are for every command that has such an
option; keys in a table named after a command (`[compile]`) are for that command and win. Relative paths are relative
to the working directory. The command line beats `EDGEPRUNE_*` variables, and these beat the file.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgeprune.core.errors import EdgepruneError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_FILE = Path("edgeprune.toml")


class ConfigError(EdgepruneError):
    """The file of options cannot be read, or names an option that no command has."""


def load_config(path: Path | None) -> dict[str, Any]:
    """Read a file of options; without a path `edgeprune.toml` of the working directory, if there is one.

    Raises:
        ConfigError: if the named file is absent, unreadable or no TOML.
    """
    if path is None and not DEFAULT_FILE.is_file():
        return {}
    path = path or DEFAULT_FILE
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"cannot read the options in `{path}`: {error.strerror}"
        raise ConfigError(msg, hint="name another file with --config, or leave it out") from error
    except ValueError as error:  # no TOML, or no UTF-8
        msg = f"`{path}` is no TOML: {error}"
        raise ConfigError(msg, hint="write options as `keep = 0.6`, one a line") from error


def options_for(config: Mapping[str, Any], command: str, options: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """Pick what a file holds for one command, by option name with underscores.

    Args:
        config: what `load_config` returned.
        command: name of the command.
        options: names of the options of every command.

    Raises:
        ConfigError: if a key is no option of any command, or a table's key none of that command.
    """
    everywhere = {name for names in options.values() for name in names}
    tables = {key: value for key, value in config.items() if key in options and isinstance(value, dict)}
    shared = _named({key: value for key, value in config.items() if key not in tables}, everywhere, "")
    own = {name: _named(table, options[name], f"{name}.") for name, table in tables.items()}
    wanted = {name: value for name, value in shared.items() if name in options[command]}
    return wanted | own.get(command, {})


def _named(values: Mapping[str, Any], known: Collection[str], where: str) -> dict[str, Any]:
    named = {key.replace("-", "_"): value for key, value in values.items()}
    for name in named:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0].replace('_', '-')}`?" if near else "options are listed by --help"
            msg = f"no such option in the file of options: `{where}{name.replace('_', '-')}`"
            raise ConfigError(msg, hint=hint)
    return named
