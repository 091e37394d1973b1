"""Print a JSON Schema: of `report.json`, or with the word `bench` of what `bench --json` prints. `make schema`."""

from __future__ import annotations

import sys
from typing import Any

from edgeprune.report.benched import SCHEMA as BENCH_SCHEMA
from edgeprune.report.benched import BenchReport
from edgeprune.report.report import SCHEMA, Report
from edgeprune.report.serialise import schema_of, to_json


def report_schema() -> dict[str, Any]:
    """JSON Schema of a report of this version; a report of another version does not fit it."""
    return _document(Report, SCHEMA, "report", "report.json of edgeprune")


def bench_schema() -> dict[str, Any]:
    """JSON Schema of what `bench` of this version measures."""
    return _document(BenchReport, BENCH_SCHEMA, "bench", "edgeprune bench --json")


def _document(kind: type[object], version: int, name: str, title: str) -> dict[str, Any]:
    made = schema_of(kind)
    definition = made["$defs"][kind.__name__]
    definition["properties"]["schema"] |= {"const": version}
    definition["required"].insert(0, "schema")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:edgeprune:{name}:{version}",
        "title": title,
    }
    return head | made


def main() -> None:
    """Write the schema to stdout."""
    sys.stdout.buffer.write(to_json(bench_schema() if "bench" in sys.argv[1:] else report_schema()))


if __name__ == "__main__":
    main()
