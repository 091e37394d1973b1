"""Search for a better schedule on a budget, with few and costly evaluations.

A score is expected to be smooth in how many tokens each cut removes. All that was evaluated so far is interpolated by a
Gaussian process; of many mutations of the best schedules, projected onto the budget, the one is evaluated next whose
lower confidence bound is lowest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Schedule: TypeAlias = "tuple[int, ...]"

_PARENTS = 4
_PROPOSALS = 160
_STEPS = (0.1, 0.25, 0.5)
_SCALES = (0.5, 1.0, 2.0, 4.0)
_NOISE = 1e-3


@dataclass(frozen=True, slots=True)
class Trial:
    """A schedule and what it scored; lower is better."""

    schedule: Schedule
    score: float


def search(
    score: Callable[[Schedule], float],
    starts: Sequence[Schedule],
    project: Callable[[Sequence[int]], Schedule | None],
    *,
    patches: int,
    evaluations: int,
    seed: int = 0,
) -> tuple[Trial, ...]:
    """Every schedule that was tried, in order; the same arguments give the same trials.

    Args:
        score: lower is better, positive; called at most `evaluations` times.
        starts: schedules on the budget, evaluated first; a schedule is patch tokens kept after each cut point.
        project: brings a proposed schedule back onto the budget; None if that is impossible.
        patches: patch tokens before the first cut point.
        evaluations: how many schedules may be scored, starts included.
        seed: of the mutations.
    """
    rng = np.random.default_rng(seed)
    trials: list[Trial] = []
    for start in dict.fromkeys(tuple(s) for s in starts):
        if len(trials) < evaluations:
            trials.append(Trial(start, score(start)))
    while trials and len(trials) < evaluations:
        proposals = list(_proposals(trials, project, patches, rng))
        if not proposals:
            break
        chosen = proposals[int(np.argmin(_lower_bound(trials, proposals, patches)))]
        trials.append(Trial(chosen, score(chosen)))
    return tuple(trials)


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the lowest score; of equals the first."""
    return min(trials, key=lambda trial: trial.score)


def _proposals(
    trials: Sequence[Trial],
    project: Callable[[Sequence[int]], Schedule | None],
    patches: int,
    rng: np.random.Generator,
) -> Iterator[Schedule]:
    """Mutations of the best trials that were not tried yet."""
    known = {trial.schedule for trial in trials}
    parents = sorted(trials, key=lambda trial: trial.score)[:_PARENTS]
    for i in range(_PROPOSALS):
        removed = _removed(parents[i % len(parents)].schedule, patches)
        mutated = np.clip(patches * np.exp(-np.cumsum(_mutated(removed, rng))), 1, patches)
        schedule = project(tuple(np.minimum.accumulate(mutated.round().astype(int)).tolist()))
        if schedule is not None and schedule not in known:
            known.add(schedule)
            yield schedule


def _mutated(removed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Removals scaled at random, moved from one cut to another, or all given to a neighbour."""
    points = len(removed)
    step = rng.choice(_STEPS)
    kind = rng.integers(3)
    if kind == 0:
        return np.asarray(removed * np.exp(step * rng.standard_normal(points)))
    out = removed.copy()
    giver, taker = rng.integers(points, size=2)
    moved = out[giver] * (step if kind == 1 else rng.choice([step, 1.0]))
    out[giver] -= moved
    out[taker] += moved
    return np.asarray(out)


def _removed(schedule: Schedule, patches: int) -> np.ndarray:
    """Share of the tokens that each cut removes, as -log(kept / before)."""
    kept = np.array([patches, *schedule], dtype=float)
    return np.asarray(np.log(kept[:-1] / kept[1:]))


def _lower_bound(trials: Sequence[Trial], proposals: Sequence[Schedule], patches: int) -> np.ndarray:
    """Mean minus deviation of log(score), predicted for proposals by a Gaussian process through the trials."""
    seen = np.stack([_removed(trial.schedule, patches) for trial in trials])
    asked = np.stack([_removed(schedule, patches) for schedule in proposals])
    goal = np.log([max(trial.score, 1e-12) for trial in trials])
    shift, unit = goal.mean(), max(goal.std(), 1e-6)
    goal = (goal - shift) / unit
    near, cross = _distances(seen, seen), _distances(asked, seen)
    typical = float(np.sqrt(np.median(near[near > 0]))) if (near > 0).any() else 1.0
    fits = [_fitted(near, goal, typical * factor) for factor in _SCALES]
    _, inverse, scale = max(fits, key=lambda fit: fit[0])
    kernel = _kernel(cross, scale)
    mean = kernel @ inverse @ goal
    variance = np.clip(1 - np.einsum("ij,jk,ik->i", kernel, inverse, kernel), 0, None)
    return np.asarray(mean - np.sqrt(variance))


def _fitted(near: np.ndarray, goal: np.ndarray, scale: float) -> tuple[float, np.ndarray, float]:
    """Log likelihood, inverse of the covariance, length scale."""
    covariance = _kernel(near, scale) + _NOISE * np.eye(len(goal))
    inverse = np.linalg.inv(covariance)
    likelihood = -0.5 * float(goal @ inverse @ goal) - 0.5 * float(np.linalg.slogdet(covariance)[1])
    return likelihood, inverse, scale


def _kernel(squares: np.ndarray, scale: float) -> np.ndarray:
    """Matern 5/2."""
    r = np.sqrt(5 * squares) / scale
    return np.asarray((1 + r + r * r / 3) * np.exp(-r))


def _distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.asarray(((left[:, None] - right[None]) ** 2).sum(-1))
