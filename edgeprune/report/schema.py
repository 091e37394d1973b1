"""Print the JSON Schema of `report.json`: `python -m edgeprune.report.schema > edgeprune/report/report.schema.json`."""

from __future__ import annotations

import sys

from edgeprune.report.report import Report
from edgeprune.report.serialise import schema_of, to_json


def main() -> None:
    """Write the schema to stdout."""
    sys.stdout.buffer.write(to_json(schema_of(Report)))


if __name__ == "__main__":
    main()
