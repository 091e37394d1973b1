"""Lists of what is registered, and one of them in full, told by its class: docstring, fields, source."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from edgeprune.cli.output import show, show_json
from edgeprune.core.errors import PlanError


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A registered class as a person reads it."""

    name: str
    summary: str
    source: str = ""
    options: dict[str, str] = field(default_factory=dict)
    text: str = ""


def describe(name: str, kind: type) -> Kind:
    """Read a class: the first line of its docstring, the rest, its fields with their defaults, its source."""
    summary, _, text = (inspect.getdoc(kind) or "").partition("\n")
    options = {item.name: _default(item) for item in fields(kind)} if is_dataclass(kind) else {}
    source = str(getattr(kind, "source", ""))
    return Kind(name=name, summary=summary.strip(), source=source, options=options, text=text.strip())


def find(what: str, name: str, kinds: Mapping[str, type]) -> type:
    """Look up a registered class.

    Raises:
        PlanError: if there is none of this name.
    """
    if name in kinds:
        return kinds[name]
    near = get_close_matches(name, kinds, n=1)
    msg = f"no {what} is named `{name}`"
    raise PlanError(msg, hint=f"did you mean `{near[0]}`?" if near else f"there are {', '.join(sorted(kinds))}")


def print_kinds(title: str, kinds: Mapping[str, type], *, as_json: bool) -> None:
    """List registered classes, each with its sentence."""
    described = [describe(name, kind) for name, kind in sorted(kinds.items())]
    if as_json:
        show_json(described)
        return
    print_table(title, {kind.name: kind.summary for kind in described})


def print_kind(name: str, kind: type, *, as_json: bool) -> None:
    """Show one registered class in full."""
    described = describe(name, kind)
    if as_json:
        show_json(described)
        return
    lines = [f"{name}: {described.summary}", *([described.text] if described.text else [])]
    lines += [f"option {option} = {default}" for option, default in described.options.items()]
    lines += [f"source: {described.source}"] if described.source else []
    show("\n\n".join(lines[:2]) + "".join(f"\n{line}" for line in lines[2:]))


def print_table(title: str, rows: Mapping[str, str]) -> None:
    """Print names, each with a sentence."""
    from edgeprune.report.terminal import table

    made = table(title, "name", "what it is", left=2)
    for name, text in rows.items():
        made.add_row(name, text)
    show(made)


def _default(item: Any) -> str:
    if item.default is not MISSING:
        return str(item.default)
    return "required" if item.default_factory is MISSING else str(item.default_factory())
