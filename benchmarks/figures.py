"""Write the figures of the README from the stored results, so that no number there is typed by hand.

python benchmarks/figures.py [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from _results import RESULTS

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"


def main() -> None:
    """Write, or with --check say whether the README is up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = README.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    new = f"{head}{BEGIN}\n{figures()}{END}{tail}"
    if check and new != text:
        sys.exit("the figures of the README are not those of benchmarks/results: run `python benchmarks/figures.py`")
    if not check:
        README.write_text(new)


def figures() -> str:
    """The block between the marks."""
    deit = load("deit_tiny")
    machine = deit["latency"]["machine"]
    lines = [
        "DeiT-Tiny with its published weights, nothing trained; decided on 100 photographs, scored on 400 others:",
        "",
        "| | MACs | same class as dense | KL to dense | top-1 | ONNX Runtime CPU latency |",
        "|---|---|---|---|---|---|",
    ]
    lines += [deit_row(row, latencies(deit)) for row in deit["strategies"]["rows"] if wanted(row)]
    threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    where = (
        f"Measured on {machine['cpu']}, {threads}, medians of interleaved runs; a busy machine, so "
        "read ratios. Tables of all strategies, the published methods beside ours, engines and architectures are in "
        "[benchmarks/results](benchmarks/results); `make bench` makes them again."
    )
    lines += ["", *dense_map(load("dense")["rows"]), "", latency_model(load("latency_model")), "", where, ""]
    return "\n".join(lines)


def dense_map(rows: list[dict[str, Any]]) -> list[str]:
    """The saliency ViT at each budget, by the automatic choice."""
    auto = [row for row in rows if str(row["strategy"]).startswith("auto")]
    what = (
        "A saliency ViT (DINOv2-S with a convolutional decoder), tokens restored before the decoder; maps against the "
        f"dense ones on {auto[0]['photographs']} photographs that decided nothing:"
    )
    return [
        what,
        "",
        "| | MACs | correlation | mean absolute difference | ONNX Runtime CPU latency |",
        "|---|---|---|---|---|",
        *(
            f"| `--keep {row['keep']:g}` | {row['macs_ratio']:.2f} | {row['correlation']:.3f} | "
            f"{row['mean_abs_error']:.3f} | {row['latency_ratio']:.2f} |"
            for row in auto
        ),
    ]


def latency_model(results: dict[str, Any]) -> str:
    """How far the latency model is from published timings that it was not fitted on."""
    device = results["overall"]["left out by device"]
    shares = (device["median_absolute_error"], device["median_by"]["board"], device["coverage"])
    error, boards, inside = (f"{100 * share:.0f} %" for share in shares)
    return (
        f"Modelled latencies: on devices left out of the fit the median error is {error} over {device['rows']} "
        f"published TensorRT timings of transformers ({boards} as a mean over boards), and {inside} of them lie in the "
        "stated 80 % interval. No timing of a GeForce or RTX card is among them."
    )


def wanted(row: dict[str, Any]) -> bool:
    """Dense and what the default would choose."""
    return row["what"] == "dense" or (str(row["what"]).startswith("auto") and row.get("kl") is not None)


def latencies(deit: dict[str, Any]) -> dict[float, float]:
    """Latency ratio of the automatic choice by what was asked."""
    rows = deit.get("latency", {}).get("rows", [])
    return {float(row["what"].split("-")[-1]): row["latency_ratio"] for row in rows if row["what"].startswith("auto-")}


def deit_row(row: dict[str, Any], latency: dict[float, float]) -> str:
    """One line of the table."""
    if row["what"] == "dense":
        return f"| dense | 1 | | | {row['top1']:.1f} % | 1 |"
    ratio = latency.get(float(row["asked"]))
    shown = f"{ratio:.2f}" if ratio is not None else ""
    return (
        f"| `--macs {row['asked']:g}` | {row['macs_ratio']:.2f} | {row['agreement']:.1f} % | {row['kl']:.4f} | "
        f"{row['top1']:.1f} % | {shown} |"
    )


def load(name: str) -> dict[str, Any]:
    """Stored results.

    Raises:
        SystemExit: if they were not made yet.
    """
    path = RESULTS / f"{name}.json"
    if not path.exists():
        sys.exit(f"no results in {path.name}: run `make bench`")
    data: dict[str, Any] = json.loads(path.read_text())
    return data


if __name__ == "__main__":
    main()
