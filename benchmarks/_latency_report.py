"""Tables of the latency model's errors, and the file of coefficients that edgeprune predicts with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from _latency_fit import Judgement
from _latency_intervals import coverage, half_width, pairs, widths
from _latency_rows import Row
from _latency_table import Table
from _results import markdown

import edgeprune_targets

_FIT = Path(str(edgeprune_targets.__file__)).with_name("latency_fit.json")
_GOALS = {"left out by device": 0.25, "left out by model": 0.15}


def summary(table: Table, judged: Judgement, excluded: Counter[str]) -> tuple[dict[str, Any], str]:
    """Results as data and as Markdown."""
    mask = np.array([row.judged for row in table.rows])
    rows = [row for row in table.rows if row.judged]
    by_device, by_model = coverage(table, judged)
    held_out = {
        "left out by device": (judged.without_device[mask], by_device[mask]),
        "left out by model": (judged.without_model[mask], by_model[mask]),
    }
    ratio_errors, ratio_boards = pairs(table, judged)
    data: dict[str, Any] = {
        "date": _today(),
        "rows": {"judged": len(rows), "fitted": len(table.rows), "excluded": dict(excluded)},
        "overall": {name: _overall(rows, *result) for name, result in held_out.items()},
        "groups": {name: _groups(rows, *result) for name, result in held_out.items()},
        "half_widths": widths(table, judged, mask),
        "speed_up": {"pairs": len(ratio_boards), "relative_half_width": half_width(ratio_errors, ratio_boards)},
    }
    return data, _text(data)


def _overall(rows: Sequence[Row], errors: Any, inside: Any) -> dict[str, Any]:
    absolute = np.abs(np.expm1(-errors))
    macro = {
        what: _macro([key(row) for row in rows], absolute)
        for what, key in (("board", lambda r: r.board), ("model", lambda r: r.graph), ("family", lambda r: r.family))
    }
    return {
        "rows": len(rows),
        "median_absolute_error": float(np.median(absolute)),
        "median_by": macro,
        "p80_absolute_error": float(np.quantile(absolute, 0.8)),
        "coverage": float(inside.mean()),
        "coverage_by_board": _macro([row.board for row in rows], inside, np.mean),
    }


def _macro(names: Sequence[str], values: Any, middle: Callable[[Any], Any] = np.median) -> float:
    """Mean over names of the middle of each name's values, so that a name with many rows counts once."""
    parts = [middle(values[np.array([name == other for other in names])]) for name in dict.fromkeys(names)]
    return float(np.mean(parts))


def _groups(rows: Sequence[Row], errors: Any, inside: Any) -> list[dict[str, Any]]:
    keys = [(row.device, row.family, row.precision) for row in rows]
    found = []
    for key in sorted(set(keys)):
        mask = np.array([other == key for other in keys])
        found.append({
            "device": key[0], "models": key[1], "precision": key[2], "rows": int(mask.sum()),
            "median_absolute_error": float(np.median(np.abs(np.expm1(-errors[mask])))),
            "bias": float(np.expm1(-np.median(errors[mask]))),
            "coverage": float(inside[mask].mean()),
        })  # fmt: skip
    return found


_COLUMNS = (
    "held out", "rows", "median error", "goal", "mean over boards", "over models", "over families", "80 % below",
    "coverage", "coverage, mean over boards",
)  # fmt: skip


def _text(data: dict[str, Any]) -> str:
    rows = data["rows"]
    parts = ["# Latency model against published timings\n", _intro(rows), markdown(_COLUMNS, _lines(data["overall"]))]
    for name, groups in data["groups"].items():
        header = ("device", "models", "precision", "rows", "median error", "bias", "coverage")
        parts += [f"## Held out: {name}\n", markdown(header, [_group_line(group) for group in groups])]
    factors = [(_SEEN[name], f"x {np.exp(width):.2f}") for name, width in data["half_widths"].items()]
    parts += [
        "## The 80 % interval: factor up and down\n",
        markdown(("the fit has seen", "factor"), factors),
        _pairs_line(data["speed_up"]),
        "## TensorRT rows that are not judged\n",
        markdown(("reason", "rows"), sorted(rows["excluded"].items(), key=lambda item: -item[1])),
    ]  # fmt: skip
    return "\n".join(parts)


_SEEN = {
    "device": "this device, not the model",
    "architecture": "another device of its architecture",
    "none": "no device of its architecture",
    "family": "no model of this kind",
}


def _pairs_line(speed: dict[str, Any]) -> str:
    pairs_of = "one model and device at two batches or input sizes, the board left out"
    return (
        f"Speed-up: 80 % of {speed['pairs']} pairs ({pairs_of}) are within {_percent(speed['relative_half_width'])} of "
        "its logarithm.\n"
    )


def _intro(rows: dict[str, Any]) -> str:
    text = f"""
        {rows["judged"]} transformer rows on TensorRT are judged; the fit sees {rows["fitted"]} rows, FasterTransformer
        and PyTorch with terms of their own. Error: |modelled / published - 1|. Left out by device: no row of the board
        in the fit, in any power mode or runtime. Left out by model: no row of the model in the fit, on any device.
        Coverage: rows in the 80 % interval, whose width comes from the errors of other boards or models only. Set by
        hand, with T4 and A100 known: the shares of the tile sizes, and the energy of an operation by process. Of three
        forms of the formula the one with the smallest held-out errors was kept.
        """
    return " ".join(text.split()) + "\n"


def _lines(overall: dict[str, Any]) -> list[tuple[object, ...]]:
    return [
        (
            name,
            part["rows"],
            _percent(part["median_absolute_error"]),
            _percent(_GOALS[name]),
            *(_percent(value) for value in part["median_by"].values()),
            *(_percent(part[word]) for word in ("p80_absolute_error", "coverage", "coverage_by_board")),
        )
        for name, part in overall.items()
    ]


def _group_line(group: dict[str, Any]) -> tuple[object, ...]:
    shares = (_percent(group[word]) for word in ("median_absolute_error", "bias", "coverage"))
    return (group["device"], group["models"], group["precision"], group["rows"], *shares)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _today() -> str:
    return datetime.now(tz=timezone.utc).date().isoformat()


def write_fit(table: Table, judged: Judgement) -> None:
    """Write the coefficients: derived numbers, with where they come from; none of the rows."""
    mask = np.array([row.judged for row in table.rows])
    ratio_errors, ratio_boards = pairs(table, judged)
    content = {
        "schema": 1,
        "fitted": _today(),
        "source": f"benchmarks/bench_latency_model.py --fit on {len(table.rows)} published timings of transformers, "
        f"{int(mask.sum())} of them of TensorRT",
        "devices": sorted({row.device for row in table.rows if row.judged}),
        "families": sorted({m.family for m, row in zip(table.machines, table.rows, strict=True) if row.judged}),
        "half_widths": {name: round(width, 4) for name, width in widths(table, judged, mask).items()},
        "speed_up_half_width": round(half_width(ratio_errors, ratio_boards), 4),
        "terms": {key: round(float(value), 4) for key, value in zip(table.keys, judged.terms, strict=True)},
    }
    _FIT.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
