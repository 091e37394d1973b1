"""Search for a better schedule on a budget, with few, costly and noisy evaluations.

A hundred samples cannot tell apart schedules that differ in one block: a search over all counts was seen to gain a
quarter on the samples it chose by and to lose as much on others. So the search varies a schedule smoothly over the
depth, by a few cosines; a Gaussian process with noise through all that was evaluated proposes the next one, and the
choice among them is made by what it predicts, not by the luckiest score.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgeprune.core.schedule import rates_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Schedule: TypeAlias = "tuple[int, ...]"

_WAVES = 3
_NEIGHBOURS = (0.25, 0.5, 0.25)
_SPREAD = 0.7
_PROPOSALS = 120
_SCALES = (0.5, 1.0, 2.0, 4.0)
_NOISES = (1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, slots=True)
class Trial:
    """A schedule and what it scored; lower is better.

    Attributes:
        schedule: patch tokens kept after each cut point.
        score: as measured.
        expected: log(score) as predicted from all trials; the measure by which to choose.
    """

    schedule: Schedule
    score: float
    expected: float


def search(
    score: Callable[[Schedule], float],
    starts: Sequence[Schedule],
    project: Callable[[Sequence[int]], Schedule | None],
    *,
    patches: int,
    evaluations: int,
    seed: int = 0,
) -> tuple[Trial, ...]:
    """Every schedule that was tried, the best first; the same arguments give the same trials.

    Args:
        score: lower is better, positive. Take one that few bad samples do not decide, like the mean of sqrt(KL).
        starts: schedules on the budget, evaluated first.
        project: brings a proposed schedule back onto the budget; None if that is impossible.
        patches: patch tokens before the first cut point.
        evaluations: how many schedules may be scored, starts included.
        seed: of the variations.
    """
    rng = np.random.default_rng(seed)
    scores: dict[Schedule, float] = {}
    queue = list(dict.fromkeys(tuple(start) for start in starts))
    while len(scores) < evaluations:
        if not queue:
            queue = _next(scores, project, patches, rng)
        if not queue:
            break
        schedule = queue.pop(0)
        scores[schedule] = score(schedule)
    if not scores:
        return ()
    expected = _predict(scores, list(scores), patches)[0]
    trials = [Trial(s, value, float(e)) for (s, value), e in zip(scores.items(), expected, strict=True)]
    return tuple(sorted(trials, key=lambda trial: trial.expected))


def best(trials: Sequence[Trial]) -> Trial:
    """The trial to take: the one that is expected to be best, not the luckiest."""
    return min(trials, key=lambda trial: trial.expected)


def _next(
    scores: dict[Schedule, float],
    project: Callable[[Sequence[int]], Schedule | None],
    patches: int,
    rng: np.random.Generator,
) -> list[Schedule]:
    """The variation of the most promising trials whose lower confidence bound is lowest; none if all are known."""
    known = list(scores)
    if not known:
        return []
    promising = np.argsort(_predict(scores, known, patches)[0])[:3]
    proposals: dict[Schedule, None] = {}
    for i in range(_PROPOSALS):
        schedule = project(_varied(known[promising[i % len(promising)]], patches, rng))
        if schedule is not None and schedule not in scores:
            proposals[schedule] = None
    if not proposals:
        return []
    mean, deviation = _predict(scores, list(proposals), patches)
    return [list(proposals)[int(np.argmin(mean - deviation))]]


def _varied(schedule: Schedule, patches: int, rng: np.random.Generator) -> Schedule:
    """A schedule with the rates of its cuts multiplied by a smooth positive factor over the depth.

    Every second time the rates first spread to the neighbours, so that few cuts can move.
    """
    rates = np.array(rates_of(schedule, patches))
    if rng.integers(2):
        rates = np.convolve(rates, _NEIGHBOURS)[1:-1]
    depth = np.arange(len(rates)) / max(len(rates) - 1, 1)
    order = np.arange(1, _WAVES + 1)
    weights = _SPREAD * rng.standard_normal(_WAVES) / order
    varied = rates * np.exp(np.cos(np.pi * np.outer(depth, order)) @ weights)
    total = log(patches / schedule[-1]) / max(varied.sum(), 1e-9)
    kept = patches * np.exp(-np.cumsum(varied) * total)
    return tuple(int(count) for count in np.maximum(kept.round(), 1))


def _predict(scores: dict[Schedule, float], asked: Sequence[Schedule], patches: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of log(score) by a Gaussian process; length and noise are the likeliest of a few."""
    seen, wanted = (np.stack([_features(s, patches) for s in some]) for some in (list(scores), asked))
    goal = np.log(np.maximum(list(scores.values()), 1e-12))
    shift, unit = goal.mean(), max(goal.std(), 1e-6)
    goal = (goal - shift) / unit
    near, cross = _squares(seen, seen), _squares(wanted, seen)
    typical = float(np.sqrt(np.median(near[near > 0]))) if (near > 0).any() else 1.0
    tries = [(typical * factor, noise) for factor in _SCALES for noise in _NOISES]
    length, noise = max(tries, key=lambda pair: _likelihood(near, goal, *pair))
    inverse = np.linalg.inv(_kernel(near, length) + noise * np.eye(len(goal)))
    kernel = _kernel(cross, length)
    variance = np.clip(1 - np.einsum("ij,jk,ik->i", kernel, inverse, kernel), 0, None)
    return shift + unit * (kernel @ inverse @ goal), unit * np.sqrt(variance)


def _features(schedule: Schedule, patches: int) -> np.ndarray:
    """Log of the share kept after each cut."""
    return np.asarray(np.log(np.asarray(schedule, dtype=float) / patches))


def _likelihood(near: np.ndarray, goal: np.ndarray, length: float, noise: float) -> float:
    covariance = _kernel(near, length) + noise * np.eye(len(goal))
    fit = goal @ np.linalg.solve(covariance, goal)
    return float(-0.5 * fit - 0.5 * np.linalg.slogdet(covariance)[1])


def _kernel(squares: np.ndarray, length: float) -> np.ndarray:
    """Matern 5/2."""
    r = np.sqrt(5 * squares) / length
    return np.asarray((1 + r + r * r / 3) * np.exp(-r))


def _squares(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.asarray(((left[:, None] - right[None]) ** 2).sum(-1))
