"""Print the JSON Schema of `report.json`: `python -m edgeprune.report.schema > edgeprune/report/report.schema.json`."""

from __future__ import annotations

import sys
from typing import Any

from edgeprune.report.report import SCHEMA, Report
from edgeprune.report.serialise import schema_of, to_json


def report_schema() -> dict[str, Any]:
    """JSON Schema of a report of this version; a report of another version does not fit it."""
    made = schema_of(Report)
    version = made["$defs"]["Report"]["properties"]["schema"]
    version |= {"const": SCHEMA}
    made["$defs"]["Report"]["required"].insert(0, "schema")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:edgeprune:report:{SCHEMA}",
        "title": "report.json of edgeprune",
    }
    return head | made


def main() -> None:
    """Write the schema to stdout."""
    sys.stdout.buffer.write(to_json(report_schema()))


if __name__ == "__main__":
    main()
