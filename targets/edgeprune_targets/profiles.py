"""Device profiles: what edgeprune knows about a target, one TOML file a device with its power modes.

A `Target` is one device in one power mode, so that a figure modelled for it means something. `jetson-agx-orin-64gb`
is the device in its default mode, the first of its file; `jetson-agx-orin-64gb@30w` is another. Every number of a
shipped profile has its source and how sure that is; a user's own profile may leave the sources out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from edgeprune.core.errors import TargetError
from edgeprune_targets._profile_checks import read_raw
from edgeprune_targets._profile_fields import NUMBERS
from edgeprune_targets._profile_plugins import in_plugin, plugin_profiles
from edgeprune_targets.target import OLDEST_TENSORRT, Software, Source, Target, target_in_mode

__all__ = [
    "NUMBERS",
    "OLDEST_TENSORRT",
    "Software",
    "Source",
    "Target",
    "load_target",
    "load_targets",
    "mode_names",
    "profile_text",
    "read_profile",
    "split_targets",
    "target_aliases",
    "target_names",
]

_FOLDER = Path(__file__).parent / "profiles"


def target_names() -> tuple[str, ...]:
    """Names of all profiles, shipped and of plug-ins, sorted.

    Raises:
        TargetError: if a plug-in is broken.
    """
    return tuple(sorted({*_shipped_names(), *_plugin_paths()}))


def target_aliases() -> dict[str, str]:
    """Alias -> name of the profile, over all profiles.

    Raises:
        TargetError: if a plug-in is broken.
    """
    return {alias: name for name in target_names() for alias in load_target(name).aliases}


def mode_names(name: str | Path) -> tuple[str, ...]:
    """Power modes of a target, the default first.

    Raises:
        TargetError: if there is no such target, or its profile is wrong.
    """
    return load_target(name).modes


def load_target(name: str | Path) -> Target:
    """Find a target by name, by alias, or by the path of a TOML profile; '@MODE' behind it chooses a power mode.

    Raises:
        TargetError: if there is no such target or mode, or the profile is wrong.
    """
    base, mode = _without_mode(str(name))
    if _is_path(name, base):
        return read_profile(Path(base), mode)
    return target_in_mode(_raw(_profile_path(base)), mode)


def read_profile(path: Path, mode: str = "") -> Target:
    """Read and check one TOML profile, in its default mode or in the one named.

    Raises:
        TargetError: naming the file, the field, what was expected and what was found.
    """
    return target_in_mode(read_raw(path), mode)


def profile_text(name: str | Path) -> str:
    """The TOML behind a target, to copy from.

    Raises:
        TargetError: if there is no such target.
    """
    base, _ = _without_mode(str(name))
    load_target(name)
    path = Path(base) if _is_path(name, base) else _profile_path(base)
    return path.read_text(encoding="utf-8")


def split_targets(words: Iterable[str]) -> tuple[str, ...]:
    """Words of the command line, each a name or several with commas between; each name once, in the order given.

    A path with a comma in it cannot be named: give the file another name.

    Raises:
        TargetError: if a word names nothing, as ',' or ''.
    """
    found: dict[str, None] = {}
    for word in words:
        names = [part.strip() for part in word.split(",")]
        if not all(names):
            msg = f"a target is missing in {word!r}: expected names with one comma between two"
            raise TargetError(msg, hint="write it as rtx-4090,rtx-3090")
        found |= dict.fromkeys(names)
    return tuple(found)


def load_targets(words: str | Iterable[str]) -> tuple[Target, ...]:
    """Load each target of 'rtx-4090,rtx-3090', or of several such words; a device in a mode counts once.

    Raises:
        TargetError: if there is no such target or mode, a profile is wrong, or two files claim one name.
    """
    found: dict[str, Target] = {}
    for word in split_targets([words] if isinstance(words, str) else words):
        target = load_target(word)
        if found.setdefault(target.name, target) != target:
            msg = f"two different profiles are named `{target.name}`: one of them is {word}"
            raise TargetError(msg, hint="change `name` in one of the two; what is written for a target bears its name")
    return tuple(found.values())


@cache
def _shipped_names() -> frozenset[str]:
    return frozenset(path.stem for path in _FOLDER.glob("*.toml"))


@cache
def _raw(path: Path) -> dict[str, Any]:
    return read_raw(path)


@cache
def _plugin_paths() -> dict[str, Path]:
    """Path by name; read only for a name that is not ours, so that a broken plug-in does not stop the others.

    Raises:
        TargetError: naming the plug-in that is broken, or that claims a name which is taken.
    """
    found: dict[str, Path] = {}
    taken = {*_shipped_names(), *_shipped_aliases()}
    for plugin, path in plugin_profiles():
        try:
            raw = _raw(path)
        except TargetError as error:
            raise TargetError(in_plugin(plugin, error.message), hint=error.hint) from error
        claimed = {raw["name"], *raw.get("aliases", ())}
        if clash := sorted(claimed & taken):
            msg = in_plugin(plugin, f"target profile {path} claims the name `{clash[0]}`, which is taken")
            raise TargetError(msg, hint="give the profile another name, or uninstall the package that brings it")
        taken |= claimed
        found[raw["name"]] = path
    return found


@cache
def _shipped_aliases() -> dict[str, str]:
    return {alias: name for name in _shipped_names() for alias in _aliases_at(_FOLDER / f"{name}.toml")}


def _aliases_at(path: Path) -> list[str]:
    aliases: list[str] = _raw(path).get("aliases", [])
    return aliases


def _is_path(name: str | Path, base: str) -> bool:
    return isinstance(name, Path) or base.endswith(".toml") or "/" in base


def _without_mode(word: str) -> tuple[str, str]:
    base, mark, mode = word.rpartition("@")
    if not mark or "/" in mode or mode.endswith(".toml"):  # '@' is part of a path
        return word, ""
    return base, mode


def _profile_path(name: str) -> Path:
    shipped = _shipped_aliases().get(name, name)
    if shipped in _shipped_names():
        return _FOLDER / f"{shipped}.toml"
    plugins = {each: path for profile, path in _plugin_paths().items() for each in (profile, *_aliases_at(path))}
    if name in plugins:
        return plugins[name]
    known = sorted({*_shipped_names(), *_shipped_aliases(), *plugins})
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    otherwise = "`edgeprune targets` lists them; the path of a TOML profile works too"
    msg = f"unknown target {name!r}: expected the name of a profile or the path of a TOML file"
    raise TargetError(msg, hint=f"did you mean {close[0]}?" if close else otherwise)
