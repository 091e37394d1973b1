"""HTML and SVG as strings that know whether they are safe: text becomes markup only by being escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

_VOID = frozenset({"br", "circle", "col", "image", "img", "line", "link", "meta", "path", "rect", "use"})


class Markup(str):
    """Text that is markup already. Made by `el` and `raw` only."""

    __slots__ = ()


Attribute: TypeAlias = str | float | bool | None


def text(words: object) -> Markup:
    """Escape text; markup stays as it is."""
    return words if isinstance(words, Markup) else Markup(html.escape(str(words), quote=True))


def raw(markup: str) -> Markup:
    """Say that a string of our own is markup."""
    return Markup(markup)


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Put parts one behind the other."""
    return Markup(between.join(text(part) for part in parts))


def el(tag: str, /, *children: object, **attributes: Attribute) -> Markup:
    """An element. `class_` is `class`, `aria_label` is `aria-label`; attributes that are None or False are left out."""
    named = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    start = tag + "".join(_attribute(name, value) for name, value in named if value is not None and value is not False)
    if tag in _VOID and not children:
        return Markup(f"<{start}/>")
    return Markup(f"<{start}>{join(child for child in children if child is not None)}</{tag}>")


def number(value: float) -> str:
    """A coordinate, as short as a picture needs it."""
    return f"{value:.1f}".removesuffix(".0")


def _attribute(name: str, value: Attribute) -> str:
    if value is True:
        return f" {name}"
    shown = number(value) if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(shown, quote=True)}"'
