"""Which units to remove, and what weights the others need then: structured OBS, and centred ridge regression.

With X [n, d] in front of a weight W [d, o], kept units S and removed ones P, centred moments Sig and mean mu:

    score(G) = tr( W_G^T (K_GG)^-1 W_G ),  K = (Sig + damp I)^-1        the loss if G goes and all others are refitted
    M  = (Sig_SS + ridge I)^-1 Sig_SP W_P
    W' = W_S + M,   b' = b + mu_P W_P - mu_S M

An infinite ridge leaves W_S and folds the mean alone (FLAP); which ridge is best the held-out samples say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeprune.core.widths.units import Units
    from edgeprune_calibration.moments import Floats, Moments, SplitMoments

NO_RIDGE = "on the held-out samples no ridge does better than folding the mean"

DAMPING = 1e-2
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# A solution whose largest weight grows by more than this is not trusted: it would not survive fp16.
_GROWTH = 4.0
_DEAD = 1e-12
_BATCHES = 48


@dataclass(frozen=True, slots=True, eq=False)
class Elimination:
    """Units in the order in which they go, the cheapest first.

    Attributes:
        order: all units that may go.
        loss: after each, the squared error of the weight's output on the fitted samples, all others refitted.
        energy: squared size of that output, centred.
    """

    order: Units
    loss: Floats
    energy: float

    def kept(self, count: int, size: int) -> Units:
        """The `count` units that stay, ascending."""
        gone = self.order[: size - count]
        return np.setdiff1d(np.arange(size), gone)


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """New weights for the units that stay.

    Attributes:
        weight: [rows of S, o].
        bias: [o].
        ridge: of the regression, as a share of the mean variance; None where only the mean was folded.
        error: held-out squared error of the output, over its variance.
        untouched: the same with nothing solved: rows taken out, the old bias.
        reason: why only the mean was folded; empty where weights were solved.
    """

    weight: Floats
    bias: Floats
    ridge: float | None
    error: float
    untouched: float
    reason: str = ""


def eliminate(moments: Moments, weight: Floats, units: Units, fewest: int) -> Elimination:
    """Remove units one batch after another, always those that cost least while all others are refitted.

    Args:
        moments: of the weight's input.
        weight: [d, o]; scaled by what follows it, where that weighs outputs.
        units: [d], the unit of each row.
        fewest: units that are left at the end.
    """
    sigma = moments.covariance
    size = int(units.max()) + 1
    energy = float(np.einsum("io,ij,jo->", weight, sigma, weight, optimize=True))
    state = _State(sigma, weight, units)
    order: list[int] = []
    loss: list[float] = []
    step = 1 if size <= _BATCHES else max(1, (size - fewest) // _BATCHES)
    while len(order) < size - fewest:
        gone = state.remove(min(step, size - fewest - len(order)))
        order += gone
        loss += [state.loss] * len(gone)
    return Elimination(np.array(order, dtype=np.int64), np.array(loss), energy)


class _State:
    """Inverse covariance and weights of the units that are left."""

    def __init__(self, sigma: Floats, weight: Floats, units: Units) -> None:
        damp = DAMPING * max(float(np.diag(sigma).mean()), np.finfo(float).tiny)
        self.inverse = np.linalg.inv(sigma + damp * np.eye(len(sigma)))
        self.weight = np.array(weight, dtype=np.float64)
        self.units = np.asarray(units)
        self.loss = 0.0

    def remove(self, count: int) -> list[int]:
        """Remove the cheapest units."""
        names = np.unique(self.units)
        scores = self._scores(names)
        gone = names[np.argsort(scores, kind="stable")[:count]]
        rows = np.flatnonzero(np.isin(self.units, gone))
        stays = np.flatnonzero(~np.isin(self.units, gone))
        update = np.linalg.solve(self.inverse[np.ix_(rows, rows)], self.weight[rows])
        self.loss += float((self.weight[rows] * update).sum())
        cross = self.inverse[np.ix_(stays, rows)]
        self.weight = self.weight[stays] - cross @ update
        correction = cross @ np.linalg.solve(self.inverse[np.ix_(rows, rows)], cross.T)
        self.inverse = self.inverse[np.ix_(stays, stays)] - correction
        self.units = self.units[stays]
        return [int(unit) for unit in gone]

    def _scores(self, names: Units) -> Floats:
        if len(names) == len(self.units):
            by_row = (self.weight**2).sum(1) / np.diag(self.inverse)
            return np.asarray(by_row[np.argsort(self.units, kind="stable")])
        return np.array([self._score(np.flatnonzero(self.units == unit)) for unit in names])

    def _score(self, rows: npt.NDArray[np.int64]) -> float:
        own = self.weight[rows]
        return float((own * np.linalg.solve(self.inverse[np.ix_(rows, rows)], own)).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """What is to be kept: y = (x W + b) * gain.

    Attributes:
        weight: [d, o].
        bias: [o].
        gain: [o]; how much each output weighs in scores and errors. Solutions do not depend on it.
    """

    weight: Floats
    bias: Floats
    gain: Floats

    @property
    def weighed(self) -> Floats:
        """[d, o] for scores."""
        return self.weight * self.gain


def resolve(moments: SplitMoments, affine: Affine, stays: npt.NDArray[np.bool_]) -> Solved:
    """New weight and bias for the rows that stay, with the ridge that the held-out samples like best.

    The ridge once chosen, the weights are fitted on all samples; the error is that of the fit without the held-out.

    Args:
        moments: of the weight's input.
        affine: the weight and its bias.
        stays: [d].
    """
    kept = np.flatnonzero(stays)
    plain = held_error(moments.held, affine, affine.weight[kept], affine.bias, kept)
    trials = [_regression(moments.fit, affine, stays, ridge) for ridge in (None, *RIDGES)]
    errors = [
        held_error(moments.held, affine, weight, bias, kept) if _is_sane(weight, affine) else np.inf
        for weight, bias in trials
    ]
    best = int(np.argmin(errors))
    ridge = (None, *RIDGES)[best]
    weight, bias = _regression(moments.all, affine, stays, ridge)
    return Solved(weight, bias, ridge, errors[best], plain, "" if ridge is not None else NO_RIDGE)


def _is_sane(weight: Floats, affine: Affine) -> bool:
    return bool(np.abs(weight).max() <= _GROWTH * np.abs(affine.weight).max())


def _regression(
    fit: Moments, affine: Affine, stays: npt.NDArray[np.bool_], ridge: float | None
) -> tuple[Floats, Floats]:
    """W' and b' for one ridge, a share of the mean variance; None is an infinite one."""
    kept, gone = np.flatnonzero(stays), np.flatnonzero(~stays)
    mean, removed = fit.mean, affine.weight[gone]
    weight, bias = affine.weight[kept], affine.bias + mean[gone] @ removed
    if ridge is None:
        return weight, bias
    sigma = fit.covariance
    variance = np.diag(sigma)[kept]
    live = np.flatnonzero(variance > _DEAD * max(float(np.diag(sigma).mean()), np.finfo(float).tiny))
    if len(live) == 0:
        return weight, bias  # constants predict nothing but the mean
    inner = sigma[np.ix_(kept[live], kept[live])] + ridge * float(variance[live].mean()) * np.eye(len(live))
    change = np.zeros_like(weight)
    change[live] = np.linalg.solve(inner, sigma[np.ix_(kept[live], gone)] @ removed)
    return weight + change, bias - mean[kept] @ change


def held_error(held: Moments, affine: Affine, new: Floats, shifted: Floats, kept: npt.NDArray[np.int64]) -> float:
    """Mean squared error of x_S W' + b' against x W + b, over the variance of the latter, from moments alone."""
    delta = affine.weight.copy()
    delta[kept] -= new
    delta, offset = delta * affine.gain, (affine.bias - shifted) * affine.gain
    inner = held.second @ delta
    error = float((delta * inner).sum() + 2 * held.mean @ delta @ offset + offset @ offset)
    energy = float((affine.weighed * (held.covariance @ affine.weighed)).sum())
    whole = float((affine.weighed * (held.second @ affine.weighed)).sum())  # an output that is constant has no variance
    return max(error, 0.0) / max(energy, _DEAD * whole, float(np.finfo(np.float32).tiny))
