"""Words of the command line that click has no type for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from edgeprune.core.plan import Option, PassSpec

if TYPE_CHECKING:
    _Type = click.ParamType[tuple[str, Any]]
    _Word = click.ParamType[PassSpec]
    _Number = click.ParamType[float]
    _Words = click.ParamType[tuple[str, ...]]
else:  # older releases of click have no type argument here
    _Type = _Word = _Number = _Words = click.ParamType


class Pair(_Type):
    """A name and a value with a mark between; a file of options may give them as a table.

    Args:
        mark: between name and value; the last one counts, since names of graph inputs may hold it.
        read: reads the value; raises ValueError or TypeError if it cannot.
        example: shown where the word has another form.
    """

    def __init__(self, mark: str, read: Callable[[Any], Any], *, example: str) -> None:
        self.name = example
        self._mark, self._read = mark, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Split the word at the mark and read the value.

        Raises:
            click.BadParameter: if there is no name, no mark, or the value is of the wrong kind.
        """
        name, given = value if isinstance(value, tuple) else _split(str(value), self._mark)
        with suppress(ValueError, TypeError):
            if name.strip():
                return name.strip(), self._read(given)
        shown = self._mark.join(map(str, value)) if isinstance(value, tuple) else value
        msg = f"`{shown}` is not of the form {self.name}"
        raise click.BadParameter(msg, ctx, param)


def _split(word: str, mark: str) -> tuple[str, str]:
    name, _, value = word.rpartition(mark)
    return name, value


def _shape(value: Any) -> tuple[int, ...]:
    sizes = value.lower().split("x") if isinstance(value, str) else value
    return tuple(int(size) for size in sizes)


def _option(value: Any) -> Option:
    if not isinstance(value, str):
        return _plain(value)
    if value.lower() in {"true", "false"}:
        return value.lower() == "true"
    with suppress(ValueError):
        return int(value)
    with suppress(ValueError):
        return float(value)
    return value


def _plain(value: Any) -> Option:
    if isinstance(value, bool | int | float):
        return value
    msg = f"{value!r} is neither a number nor a word"
    raise TypeError(msg)


class Words(_Words):
    """Words with commas between."""

    name = "WORD,WORD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:  # noqa: ARG002 (click's)
        """Split at the commas."""
        words = value.split(",") if isinstance(value, str) else value
        return tuple(word.strip() for word in words if word.strip())


class CountOrShare(_Number):
    """A whole number is a count, one with a point a share."""

    name = "COUNT or SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number.

        Raises:
            click.BadParameter: if it is none.
        """
        if isinstance(value, int | float):
            return value
        with suppress(ValueError):
            return int(value)
        with suppress(ValueError):
            return float(value)
        msg = f"`{value}` is neither a count such as 144 nor a share such as 0.25"
        raise click.BadParameter(msg, ctx, param)


class PassWord(_Word):
    """A pass with its options: `NAME` or `NAME:option=value,option=value`."""

    name = "NAME[:OPTION=VALUE,...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> PassSpec:
        """Read the name and the options.

        Raises:
            click.BadParameter: if an option has no value.
        """
        if isinstance(value, PassSpec):
            return value
        name, _, rest = str(value).partition(":")
        options = dict(NAMED_OPTION.convert(word, param, ctx) for word in rest.split(",") if word)
        return PassSpec(name=name.strip(), options=options)


INPUT_SHAPE = Pair(":", _shape, example="NAME:1x3x224x224")
LIMIT = Pair("=", float, example="METRIC=X")
NAMED_OPTION = Pair("=", _option, example="NAME=VALUE")
PASS = PassWord()
COUNT_OR_SHARE = CountOrShare()
AXES_LIST = Words()
