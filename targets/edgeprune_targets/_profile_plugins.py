"""Profiles that other packages bring, through entry points of the group `edgeprune.targets`.

An entry point stands for the path of a TOML profile, for a folder of them, or for a function that returns either.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from edgeprune.core.errors import TargetError

GROUP = "edgeprune.targets"


@cache
def plugin_profiles() -> tuple[tuple[str, Path], ...]:
    """Name of the plug-in and path, for each profile that plug-ins bring.

    Raises:
        TargetError: naming the plug-in that is broken.
    """
    return tuple((point.name, path) for point in entry_points(group=GROUP) for path in _paths(point))


def in_plugin(name: str, message: str) -> str:
    """What is wrong, saying which plug-in it is in."""
    return f"plug-in `{name}` of {GROUP}: {message}"


def _paths(point: EntryPoint) -> list[Path]:
    where = f"plug-in `{point.name}` of {GROUP} ({point.value})"
    try:
        given = point.load()
        given = given() if callable(given) else given
    except Exception as error:  # a plug-in may fail in any way; the user is told which one it was
        msg = f"{where} failed: {type(error).__name__}: {error}"
        raise TargetError(msg, hint=_fix(point.name)) from error
    if not isinstance(given, str | Path):
        msg = f"{where} gave a {type(given).__name__}, expected the path of a TOML profile or of a folder of them"
        raise TargetError(msg, hint=_fix(point.name))
    path = Path(given)
    found = sorted(path.glob("*.toml")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        reason = "holds no *.toml" if path.is_dir() else "does not exist"
        msg = f"{where} gave {path}, which {reason}"
        raise TargetError(msg, hint=_fix(point.name))
    return found


def _fix(name: str) -> str:
    return f"repair or uninstall the package that brings `{name}`"
