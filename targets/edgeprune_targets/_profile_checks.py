"""Read a profile and say exactly what is wrong with it: the file, the field, what was expected, what was found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec

from edgeprune.core.errors import TargetError
from edgeprune_targets._profile_fields import (
    LISTS,
    MODE_NUMBERS,
    MODE_WORDS,
    NUMBERS,
    REQUIRED,
    REQUIRED_NUMBERS,
    RTX_CAPABILITIES,
    SOFTWARE,
    SOURCE,
    SOURCED_WORDS,
    WORDS,
    Kind,
)

_COPY = "`edgeprune targets show rtx-4090 --toml` prints a profile to copy from"
_BUILDERS = ("tensorrt-rtx", "tensorrt")

Raw = dict[str, Any]


def read_raw(path: Path) -> Raw:
    """The tables of a profile, checked in every field and in every mode.

    Raises:
        TargetError: naming the file, the field, what was expected and what was found.
    """
    raw, where = _decoded(path), f"target profile {path}"
    _check_fields(raw, WORDS | NUMBERS | LISTS, where)
    for i, table in enumerate(raw.get("modes", ())):
        _check_mode(table, f"{where}, mode {_label(table, i)}")
    for i, table in enumerate(raw.get("software", ())):
        _check_table(table, SOFTWARE, f"{where}, software {i + 1}")
    _check_sources(raw, where)
    _check_missing(raw, where)
    _check_modes(raw, where)
    _check_versions(raw, where)
    _check_builders(raw, where)
    return raw


def _decoded(path: Path) -> Raw:
    try:
        raw: Raw = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        msg = f"cannot read target profile {path}: {error.strerror or error}"
        raise TargetError(msg, hint="give the name of a target or the path of a TOML profile") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"target profile {path} is not TOML: {error}"
        raise TargetError(msg, hint=_COPY) from error
    return raw


def _label(table: Any, i: int) -> str:
    return f"`{table['name']}`" if isinstance(table.get("name"), str) else str(i + 1)


def _check_fields(table: Raw, kinds: Mapping[str, Kind], where: str) -> None:
    for name, value in table.items():
        if name not in kinds:
            msg = f"{where} has an unknown field `{name}`"
            raise TargetError(msg, hint=nearest(name, kinds, "known fields: "))
        if not kinds[name].accepts(value):
            raise _wrong(where, name, kinds[name].expected, value)


def _check_table(table: Raw, kinds: Mapping[str, Kind], where: str) -> None:
    _check_fields(table, kinds, where)
    _lacking(where, [name for name in kinds if name not in table], kinds)


def _check_mode(table: Raw, where: str) -> None:
    for name in table:
        if name in (WORDS | NUMBERS | LISTS) and name not in (MODE_WORDS | MODE_NUMBERS):
            msg = f"{where} has the field `{name}`, which is the same in all modes"
            raise TargetError(msg, hint=f"put `{name}` above the first [[modes]]")
    _check_fields(table, MODE_WORDS | MODE_NUMBERS, where)
    _lacking(where, [name for name in ("name", "label") if name not in table], MODE_WORDS)


def _check_sources(raw: Raw, where: str) -> None:
    for i, table in enumerate(raw.get("sources", ())):
        _check_source(table, f"{where}, source {i + 1}")
    for k, mode in enumerate(raw.get("modes", ())):
        for i, table in enumerate(mode.get("sources", ())):
            _check_source(table, f"{where}, mode {_label(mode, k)}, source {i + 1}")


def _check_source(table: Raw, where: str) -> None:
    _check_table(table, SOURCE, where)
    for name in table["fields"]:
        if name not in NUMBERS and name not in SOURCED_WORDS:
            msg = f"{where}: `fields` names `{name}`, expected names of numbers"
            raise TargetError(msg, hint=nearest(name, [*NUMBERS, *SOURCED_WORDS], "known fields: "))


def _check_missing(raw: Raw, where: str) -> None:
    _lacking(where, [name for name in REQUIRED if name not in raw], WORDS)
    for mode in raw.get("modes", ()):
        here = f"{where}, mode `{mode['name']}`,"
        _lacking(here, [name for name in REQUIRED_NUMBERS if name not in raw | mode], NUMBERS)
    if not raw.get("modes"):
        _lacking(where, [name for name in REQUIRED_NUMBERS if name not in raw], NUMBERS)


def _check_modes(raw: Raw, where: str) -> None:
    names = [mode["name"] for mode in raw.get("modes", ())]
    for name in names:
        if names.count(name) > 1:
            msg = f"{where} has {names.count(name)} modes named `{name}`, expected one"
            raise TargetError(msg, hint="give each [[modes]] a `name` of its own")


def _check_versions(raw: Raw, where: str) -> None:
    if ("tensorrt" in raw) == ("software" in raw):
        found = "both" if "tensorrt" in raw else "neither"
        msg = f"{where} has {found} of `tensorrt` and [[software]], expected one of the two"
        raise TargetError(msg, hint="a Jetson has [[software]] with jetpack, l4t and tensorrt; all else has `tensorrt`")
    versions = tensorrt_of(raw)
    if list(versions) != sorted(versions, key=version_key):
        raise _wrong(where, "tensorrt", "a list of versions, oldest first", list(versions))
    if (default := raw.get("default_tensorrt", versions[-1])) not in versions:
        raise _wrong(where, "default_tensorrt", f"one of {', '.join(versions)}", default)


def _check_builders(raw: Raw, where: str) -> None:
    known = {*_BUILDERS, *(point.name for point in entry_points(group="edgeprune.builders"))}
    for name in raw["builders"]:
        if name not in known:
            expected = f"some of {', '.join(sorted(known))}"
            raise _wrong(where, "builders", expected, raw["builders"], hint=nearest(name, known, "known: "))
    if "tensorrt-rtx" in raw["builders"] and raw["compute_capability"] not in RTX_CAPABILITIES:
        expected = f"'tensorrt' alone: TensorRT-RTX has no compute capability {raw['compute_capability']}"
        raise _wrong(where, "builders", expected, raw["builders"], hint=f"it has {', '.join(RTX_CAPABILITIES)}")
    if raw["runtime"] not in raw["builders"]:
        raise _wrong(where, "runtime", f"one of its builders, {', '.join(raw['builders'])}", raw["runtime"])


def tensorrt_of(raw: Raw) -> tuple[str, ...]:
    """TensorRT versions of a checked profile, each once, oldest first."""
    listed = raw["tensorrt"] if "tensorrt" in raw else [row["tensorrt"] for row in raw["software"]]
    return tuple(dict.fromkeys(listed))


def version_key(version: str) -> tuple[int, ...]:
    """Versions compare by their numbers: 10.3 comes after 8.6 and before 10.16."""
    return tuple(map(int, version.split(".")))


def nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    """A hint that names the nearest known word, or all of them."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1)
    return f"did you mean `{close[0]}`?" if close else otherwise + ", ".join(words)


def _lacking(where: str, missing: list[str], kinds: Mapping[str, Kind]) -> None:
    if missing:
        wanted = ", ".join(f"`{name}` ({kinds[name].expected})" for name in missing)
        msg = f"{where} lacks {wanted}"
        raise TargetError(msg, hint=_COPY)


def _wrong(where: str, name: str, expected: str, found: object, hint: str = _COPY) -> TargetError:
    shown = repr(found)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    msg = f"{where}: `{name}` is {shown}, expected {expected}"
    return TargetError(msg, hint=hint)
