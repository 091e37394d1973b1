"""Pictures of the output folder, put into the page itself, each once."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

from edgeprune.report.html.markup import Markup, el, raw

_KINDS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png"}
# A thumbnail has some ten thousand bytes; what is far larger was not put there by us.
_MOST_BYTES = 2_000_000


class Pictures:
    """Pictures by their path in the output folder."""

    def __init__(self, folder: Path, paths: Iterable[str | None]) -> None:
        found = {path: _data_uri(folder, path) for path in dict.fromkeys(paths) if path}
        self._uris = {path: uri for path, uri in found.items() if uri}
        self._names = {path: f"picture-{i}" for i, path in enumerate(self._uris)}

    def __contains__(self, path: str | None) -> bool:
        return path in self._uris

    def definitions(self) -> Markup:
        """The pictures, once, for all that use them."""
        images = [
            el("image", id=self._names[path], href=uri, width=1, height=1, preserveAspectRatio="none")
            for path, uri in self._uris.items()
        ]
        if not images:
            return raw("")
        return el("svg", el("defs", *images), class_="store", width=0, height=0, aria_hidden="true")

    def use(self, path: str | None, columns: float, rows: float) -> Markup | None:
        """A picture stretched over a grid; None where there is no such picture."""
        if path not in self._uris or path is None:
            return None
        return el("use", href=f"#{self._names[path]}", transform=f"scale({columns:g} {rows:g})")


def _data_uri(folder: Path, path: str) -> str | None:
    """A picture of the folder as text; None for what is absent, no picture, or outside."""
    root = folder.resolve()
    file = (root / path).resolve()
    if not file.is_relative_to(root) or not file.is_file() or file.stat().st_size > _MOST_BYTES:
        return None
    data = file.read_bytes()
    kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)
    return f"data:{kind};base64,{base64.b64encode(data).decode()}" if kind else None
