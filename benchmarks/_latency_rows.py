"""Published timings: which rows of latency_refs.csv can judge the latency model, by rules stated before any fit."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
Record: TypeAlias = dict[str, str]

# Names of the table -> profile, and the board: two modes of one board are left out together.
DEVICES = {
    "T4": ("t4", "t4"),
    "A100 40GB": ("a100-40", "a100"),
    "A100": ("a100-40", "a100"),
    "Jetson Nano": ("jetson-nano", "jetson-nano"),
    "Jetson AGX Orin 64GB": ("jetson-agx-orin-64gb", "jetson-agx-orin-64gb"),
    "Jetson Orin Nano 8GB Super": ("jetson-orin-nano-8gb-super", "jetson-orin-nano-8gb"),
    "Jetson Orin Nano 8GB": ("jetson-orin-nano-8gb", "jetson-orin-nano-8gb"),
    "RTX 3090": ("rtx-3090", "rtx-3090"),
    "RTX 4090": ("rtx-4090", "rtx-4090"),
    "RTX 5090": ("rtx-5090", "rtx-5090"),
    "RTX PRO 6000 Blackwell Max-Q": ("rtx-pro-6000-maxq", "rtx-pro-6000-maxq"),
}
_SCOPES = ("model", "model-only", "model (assumed)", "model+H2D/D2H")
_PRECISIONS = {
    "FP32": "fp32", "FP16": "fp16", "AMP-fp16": "fp16", "AMP": "fp16", "INT8": "int8", "INT8 (ft2)": "int8",
}  # fmt: skip
_RUNTIMES = {
    "TensorRT": "tensorrt",
    "FasterTransformer": "fastertransformer",
    "PyTorch eager": "eager",
    "PyTorch torch.compile": "inductor",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published timing of one model on one device.

    Attributes:
        device: name of the profile.
        board: what is left out together.
        model: as the table names it.
        family: of models, held out together: 'bert', 'vit' ...
        graph: key of the graph that stands for it.
        size: of the input: pixels a side, or tokens.
        runtime: tensorrt, fastertransformer, eager or inductor.
        gmacs: as the table states them, multiply-accumulates or twice that; 0 where it does not.
        copies: whether the copies of inputs and outputs are in the timing.
    """

    device: str
    board: str
    model: str
    family: str
    graph: str
    size: tuple[int, ...]
    batch: int
    precision: str
    runtime: str
    version: str
    ms: float
    gmacs: float
    copies: bool

    @property
    def judged(self) -> bool:
        """Whether the errors of the table are taken over it; the others only help the fit."""
        return self.runtime == "tensorrt"


def read_rows(graph_of: Callable[[str], tuple[str, str] | None]) -> tuple[list[Row], Counter[str]]:
    """The usable rows, and how many of TensorRT's are not, by reason.

    Args:
        graph_of: family and graph of a model's name, or None where no graph can be made.
    """
    with (SHARED / "latency_refs.csv").open(encoding="utf-8", newline="") as file:
        records = [record for record in csv.DictReader(file) if record["category"] == "transformer"]
    rows: list[Row] = []
    reasons: Counter[str] = Counter()
    for record in records:
        graph, reason = graph_of(record["model"]), _unusable(record)
        if graph and not reason:
            rows.append(_row(record, *graph))
        elif record["runtime"].startswith("TensorRT"):
            reasons[reason or "no graph of this model can be made here"] += 1
    return rows, reasons


def _unusable(record: Record) -> str:
    """The first rule that a row breaks, in words; empty if it breaks none."""
    return next((reason for reason, breaks in _RULES.items() if breaks(record)), "")


_RULES: dict[str, Callable[[Record], bool]] = {
    "marked as suspect in the table": lambda r: "SUSPECT" in r["note"],
    "end-to-end, harness or server timing, not the model's": lambda r: not r["scope"].startswith(_SCOPES),
    "device not named or without a profile": lambda r: r["device"] not in DEVICES,
    "runtime that is not modelled": lambda r: not r["runtime"].startswith(tuple(_RUNTIMES)),
    "sparse or partly quantised, its products are not known": lambda r: (
        r["precision"] not in _PRECISIONS or "sparse" in r["note"] + r["model"]
    ),
    "batch not stated": lambda r: not r["batch"].isdecimal() or int(r["batch"]) < 1,
    "no latency of a batch": lambda r: not r["latency_ms_per_batch"],
    "input size not stated": lambda r: not _size(r["input"]) or ("assumed" in r["input"] and not r["gflops"]),
}


def _row(record: Record, family: str, graph: str) -> Row:
    device, board = DEVICES[record["device"]]
    return Row(
        device=device,
        board=board,
        model=record["model"],
        family=family,
        graph=graph,
        size=_size(record["input"]),
        batch=int(record["batch"]),
        precision=_PRECISIONS[record["precision"]],
        runtime=next(word for name, word in _RUNTIMES.items() if record["runtime"].startswith(name)),
        version=record["version"],
        ms=float(record["latency_ms_per_batch"]),
        gmacs=float(record["gflops"] or 0),
        copies="H2D" in record["scope"],
    )


def same_work(row: Row, gmacs: float) -> bool:
    """Whether a graph has the operations that the table states, so that it is the model which was timed."""
    return not row.gmacs or any(abs(gmacs / stated - 1) < 0.1 for stated in (row.gmacs, row.gmacs / 2))


def _size(text: str) -> tuple[int, ...]:
    """'seq384' -> (384,), '224x224' -> (224, 224)."""
    found = re.match(r"seq(\d+)$|(\d+)x(\d+)", text)
    return tuple(int(part) for part in found.groups() if part) if found else ()


def counted(rows: Iterable[Row], key: Callable[[Row], str]) -> Counter[str]:
    """How many rows each value of `key` has."""
    return Counter(map(key, rows))
