"""Fit of the latency model's coefficients, and its errors on what was left out of the fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from _latency_table import Table, predict, prior
from scipy.optimize import least_squares

_NOISE = 0.12  # of a published timing, about: two sources of one model on one device differ by that


@dataclass(frozen=True)
class Judgement:
    """What a fit is worth.

    Attributes:
        terms: of the fit on all rows.
        without_device: error of each row, fitted without its board.
        without_model: error of each row, fitted without its model on any device.
        without_family: error of each row, fitted without its family of models on any device.
        own_family: whether the fit without its board still saw the row's architecture.
    All errors are log(published / modelled).
    """

    terms: Any
    without_device: Any
    without_model: Any
    without_family: Any
    own_family: Any


def judge(table: Table) -> Judgement:
    """Fit on all rows, and again without each board and without each model that TensorRT rows have."""
    rows = table.rows
    seen = {(machine.family, row.board) for machine, row in zip(table.machines, rows, strict=True)}
    own = [
        any(family == machine.family and board != row.board for family, board in seen)
        for machine, row in zip(table.machines, rows, strict=True)
    ]
    return Judgement(
        terms=fit(table, np.ones(len(rows), dtype=bool)),
        without_device=_held_out(table, [row.board for row in rows]),
        without_model=_held_out(table, [row.graph for row in rows]),
        without_family=_held_out(table, [row.family for row in rows]),
        own_family=np.array(own),
    )


def _held_out(table: Table, folds: list[str]) -> Any:
    errors = np.zeros(len(folds))
    for fold in dict.fromkeys(folds):
        out = np.array([name == fold for name in folds])
        if not any(row.judged for row, is_out in zip(table.rows, out, strict=True) if is_out):
            errors[out] = np.nan
            continue
        terms = fit(table, ~out)
        errors[out] = (table.logs - predict(table, terms))[out]
    return errors


def fit(table: Table, chosen: Any) -> Any:
    """Terms that fit the chosen rows best, given the prior; rows of a group that say the same count less each."""
    means, sigmas = np.array(list(prior({machine.family for machine in table.machines}).values())).T
    groups = [(row.board, row.family, row.runtime, row.precision) for row in table.rows]
    sizes = Counter(group for group, use in zip(groups, chosen, strict=True) if use)
    weights = np.array([sizes[group] ** -0.25 if use else 0.0 for group, use in zip(groups, chosen, strict=True)])

    def residuals(scaled: Any) -> Any:
        errors = (predict(table, means + sigmas * scaled) - table.logs) / _NOISE
        robust = np.sign(errors) * np.sqrt(2 * (np.sqrt(1 + errors**2) - 1))
        return np.concatenate([(robust * weights)[chosen], scaled])

    found = least_squares(residuals, np.zeros(len(means)), max_nfev=40)
    return means + sigmas * found.x
