"""How far the latency model is from published timings on devices and models that its fit did not see.

    python benchmarks/bench_latency_model.py          errors of the held-out rows -> results/latency_model.{json,md}
    python benchmarks/bench_latency_model.py --fit    the same, and the coefficients -> latency_fit.json of the package

Reads ../shared/data/latency_refs.csv. Kernel lists of the models are kept under build/latency; making them again takes
about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from itertools import compress

from _latency_fit import judge
from _latency_graphs import Opened, kernels_for, work_of
from _latency_models import graph_of
from _latency_report import summary, write_fit
from _latency_rows import SHARED, read_rows, same_work
from _latency_table import make_table
from _results import write
from threadpoolctl import threadpool_limits


def main() -> int:
    """Fit, judge, write."""
    parser = argparse.ArgumentParser(description="Errors of the latency model on held-out published timings")
    parser.add_argument("--fit", action="store_true", help="write the coefficients that edgeprune predicts with")
    asked = parser.parse_args()
    if not (SHARED / "latency_refs.csv").exists():
        print(f"skipped: the published timings are not here ({SHARED.name}/latency_refs.csv)", file=sys.stderr)
        return 0
    rows, excluded = read_rows(graph_of)
    rows.sort(key=lambda row: (row.graph, row.size, row.batch))
    opened: Opened = {}
    kernels = [kernels_for(row, opened) for row in rows]
    alike = [same_work(row, work_of(found) / row.batch) for row, found in zip(rows, kernels, strict=True)]
    excluded["graph with other operations than the table states"] = sum(
        row.judged and not same for row, same in zip(rows, alike, strict=True)
    )
    table = make_table(list(compress(rows, alike)), list(compress(kernels, alike)))
    with threadpool_limits(1):  # the arrays are small: threads would only wait for each other
        judged = judge(table)
    data, text = summary(table, judged, excluded)
    write("latency_model", data, text)
    if asked.fit:
        write_fit(table, judged)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
