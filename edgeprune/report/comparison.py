"""Several reports side by side: what differs, in rows that the terminal and the page both show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.core.results import Latency
from edgeprune.report.report import Report
from edgeprune.report.verdict import Verdict, main_drift, verdict_of
from edgeprune.report.words import of_dense, percent, small, times, title_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One report under the name by which it is told from the others."""

    name: str
    report: Report

    @property
    def verdict(self) -> Verdict:
        """Its gist."""
        return verdict_of(self.report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Reports side by side.

    Attributes:
        entries: in the order in which they were given.
    """

    entries: tuple[Entry, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of all targets with a latency."""
        return tuple(dict.fromkeys(row.target for entry in self.entries for row in entry.report.latency))

    def rows(self) -> list[tuple[str, tuple[str, ...]]]:
        """What is compared, with one cell a report."""
        reports = [entry.report for entry in self.entries]
        made = [
            ("model", [title_of(r.source, r.model.sha256) for r in reports]),
            ("strategy", [r.strategy.name for r in reports]),
            ("cuts", [str(len(r.plan.cuts)) for r in reports]),
            ("keep", [f"{r.budget.keep:.3f}" for r in reports]),
            ("MACs", [of_dense(r.pruned.macs, r.model.macs) for r in reports]),
            ("parameters", [of_dense(r.pruned.params, r.model.params) for r in reports]),
            ("proof", [entry.verdict.proof.figure for entry in self.entries]),
            ("samples", [str(r.validation.samples) if r.validation.drift else "no data" for r in reports]),
        ]
        made += [(name, [_drift_cell(r, name) for r in reports]) for name in _DRIFT]
        made += [("engines built", [entry.verdict.engines.figure for entry in self.entries])]
        made += [
            (f"{target}, {kind} ms", [_latency_cell(r.latency, target, kind) for r in reports])
            for target in self.targets
            for kind in ("measured", "modelled")
        ]
        return [(name, tuple(cells)) for name, cells in made if any(cell != "-" for cell in cells)]

    def notes(self) -> tuple[str, ...]:
        """Why some of the numbers do not compare."""
        reports = [entry.report for entry in self.entries]
        words = []
        if len({r.model.sha256 for r in reports}) > 1:
            words.append("these are different models: accuracy, MACs and latency do not compare")
        elif len({(r.validation.reference, r.validation.samples) for r in reports}) > 1:
            words.append("drift was measured on different samples or against different references")
        if len({r.plan.precision for r in reports}) > 1:
            words.append(
                "the precisions differ: " + ", ".join(f"{e.name} {e.report.plan.precision}" for e in self.entries)
            )
        return tuple(words)


_DRIFT = ("same class", "KL", "cosine", "correlation", "relative error")


def _drift_cell(report: Report, name: str) -> str:
    found = main_drift(report.validation)
    if found is None:
        return "-"
    drift = found[1]
    cells = {
        "same class": "-" if drift.top1_agreement is None else percent(drift.top1_agreement),
        "KL": small(drift.kl),
        "cosine": small(drift.cosine),
        "correlation": small(drift.correlation),
        "relative error": percent(drift.relative_error),
    }
    return cells[name]


def _latency_cell(rows: Sequence[Latency], target: str, kind: str) -> str:
    found = (row for row in rows if row.target == target and row.kind == kind)
    row = next(found, None)
    return "-" if row is None else f"{row.dense_p50_ms:.3f} to {row.pruned_p50_ms:.3f}, {times(row.speedup)}"
