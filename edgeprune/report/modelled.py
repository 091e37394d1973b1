"""Modelled latencies of one model on several targets, alone or against a second model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.core.plan import Precision
from edgeprune.core.results import Interval, LatencyKind
from edgeprune_targets.latency import METHOD, Estimate, compare


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelledGain:
    """A second model on the same target. All numbers are modelled.

    Attributes:
        estimate: of the second model.
        speedup: first / second.
        speedup_interval: 80 % of true speed-ups are to lie inside.
    """

    estimate: Estimate
    speedup: float
    speedup_interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelledLatency:
    """One model on one target. All numbers are modelled.

    Attributes:
        estimate: of the model.
        against_first: its latency over that on the first target.
        compared: the second model, if one was given.
    """

    estimate: Estimate
    against_first: float
    compared: ModelledGain | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """Modelled latencies on several targets.

    Attributes:
        kind: 'modelled', so that no reader takes the numbers for measured ones.
        model: as the user named it.
        compared: name of the second model; empty if there is none.
        precision: of the matrix products.
        method: one sentence on how.
        rows: one a target, in the order asked for.
    """

    model: str
    precision: Precision
    rows: tuple[ModelledLatency, ...]
    compared: str = ""
    kind: LatencyKind = "modelled"
    method: str = METHOD


def modelled_rows(first: Sequence[Estimate], second: Sequence[Estimate] = ()) -> tuple[ModelledLatency, ...]:
    """One row a target. `second` is empty where there is no second model."""
    gains = [_gain(*pair) for pair in zip(first, second, strict=True)] if second else [None] * len(first)
    return tuple(
        ModelledLatency(estimate=one, against_first=one.p50_ms / first[0].p50_ms, compared=gain)
        for one, gain in zip(first, gains, strict=True)
    )


def _gain(first: Estimate, second: Estimate) -> ModelledGain:
    return ModelledGain(estimate=second, speedup=first.p50_ms / second.p50_ms, speedup_interval=compare(first, second))
