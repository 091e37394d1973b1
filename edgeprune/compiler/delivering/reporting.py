"""Reports that were written before: read, rendered, compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.core.errors import DataError
from edgeprune.report import Report, from_json, to_json
from edgeprune.report.comparison import Comparison, Entry
from edgeprune.report.report import SCHEMA

REPORT = "report.json"
PAGE = "report.html"


@dataclass(frozen=True, slots=True)
class Written:
    """A report that was read, and where it lies."""

    report: Report
    path: Path

    @property
    def folder(self) -> Path:
        """The output folder of the compile."""
        return self.path.parent


def read_report(place: Path) -> Written:
    """Read the report of an output folder, or a `report.json`.

    Raises:
        DataError: if there is none, or it is not of this version.
    """
    path = place / REPORT if place.is_dir() else place
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"cannot read the report {path}: {error.strerror or error}"
        raise DataError(msg, hint="give a folder that `edgeprune compile -o` wrote, or its report.json") from error
    _check_schema(data, path)
    try:
        return Written(from_json(data, Report), path)
    except DataError as error:
        msg = f"{path} is {error.message}"
        raise DataError(msg, hint="give a report.json that `edgeprune compile` wrote, as it wrote it") from error


def _check_schema(data: bytes, path: Path) -> None:
    """Check the version before anything else, since an old report fails at whatever field comes first.

    Raises:
        DataError: if it is another one than ours.
    """
    try:
        found = json.loads(data)
    except ValueError as error:
        msg = f"{path} is no report: {error}"
        raise DataError(msg, hint="give a report.json that `edgeprune compile` wrote") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema == SCHEMA:
        return
    msg = f"{path} has schema {json.dumps(schema)}, expected {SCHEMA}"
    newer = isinstance(schema, int) and schema > SCHEMA
    hint = "read it with a newer edgeprune" if newer else "compile again with this version; --plan plan.json repeats it"
    raise DataError(msg, hint=hint)


def written_bytes(report: Report, folder: Path) -> tuple[bytes, bytes]:
    """`report.json` and `report.html` of a report."""
    from edgeprune.report.html import render_html

    return to_json(report), render_html(report, folder).encode()


def comparison_of(places: Sequence[Path]) -> Comparison:
    """Read several reports.

    Raises:
        DataError: if one cannot be read.
    """
    read = [read_report(place) for place in places]
    names = distinct_names([written.folder.absolute() for written in read])
    entries = [Entry(name=name, report=each.report) for name, each in zip(names, read, strict=True)]
    return Comparison(entries=tuple(entries))


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as tell them apart; numbered where paths are the same."""
    longest = max(len(folder.parts) for folder in folders)
    for parts in range(1, longest + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{folder.name} ({i})" for i, folder in enumerate(folders, 1)]
