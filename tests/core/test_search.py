"""The search finds a known optimum, is not fooled by noise, and repeats itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeprune.core.schedule import Curve, fit_schedule, rates_of, rebalance
from edgeprune.core.search import Schedule, best, search

PATCHES, POINTS, BUDGET = 196, 11, 125.0


def one(patches: int) -> int:
    del patches
    return 1


def mean(schedule: Sequence[int]) -> float:
    return sum(schedule) / len(schedule)


def project(proposed: Sequence[int]) -> Schedule | None:
    return rebalance(proposed, mean, BUDGET, PATCHES, one)


def start(curve: Curve) -> Schedule:
    return fit_schedule(lambda a: curve.kept(POINTS, PATCHES, a, one), mean, BUDGET)


BEST = np.array(Curve(centre=0.4, width=0.25).rates(POINTS))
STARTS = [start(Curve()), start(Curve(centre=0.9)), start(Curve(width=2.0))]


def harm(schedule: Schedule) -> float:
    """Grows with the distance of a schedule's rates from the best ones."""
    return 0.01 + float(np.square(np.array(rates_of(schedule, PATCHES)) - BEST).sum())


def test_it_gets_nearer_to_the_optimum_than_its_starts():
    trials = search(harm, STARTS, project, patches=PATCHES, evaluations=20)
    assert harm(best(trials).schedule) < 0.01 + 0.4 * (min(map(harm, STARTS)) - 0.01)


def test_noise_is_seen_through():
    """The winner by prediction is truly better than the starts, though the noise is as large as their differences."""
    rng = np.random.default_rng(1)
    trials = search(
        lambda s: harm(s) * np.exp(0.2 * rng.standard_normal()), STARTS, project, patches=PATCHES, evaluations=30
    )
    assert harm(best(trials).schedule) < min(map(harm, STARTS))


def test_starts_come_first_and_the_number_of_evaluations_is_kept():
    asked: list[Schedule] = []

    def score(schedule: Schedule) -> float:
        asked.append(schedule)
        return harm(schedule)

    trials = search(score, [*STARTS, STARTS[0]], project, patches=PATCHES, evaluations=9)
    assert asked[:3] == STARTS
    assert len(asked) == len(set(asked)) == len(trials) == 9
    assert all(abs(mean(schedule) - BUDGET) < 0.6 for schedule in asked)  # whole tokens
    assert [t.expected for t in trials] == sorted(t.expected for t in trials)


def test_the_same_seed_gives_the_same_trials():
    first, again, other = (
        search(harm, STARTS, project, patches=PATCHES, evaluations=8, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_nothing_to_vary_ends_the_search():
    assert len(search(harm, STARTS[:1], lambda _: None, patches=PATCHES, evaluations=8)) == 1
    assert search(harm, [], project, patches=PATCHES, evaluations=8) == ()


def test_few_cuts_move_to_better_places():
    def project_few(proposed: Sequence[int]) -> Schedule | None:
        return rebalance(proposed, mean, BUDGET, PATCHES, one, cuts=3)

    def distance(schedule: Schedule) -> float:
        return 1.0 + sum(abs(i - 3) * rate for i, rate in enumerate(rates_of(schedule, PATCHES)))

    begin = start(Curve(centre=0.65, width=0.3, start=0.0, cuts=3))
    trials = search(distance, [begin], project_few, patches=PATCHES, evaluations=15)
    assert distance(best(trials).schedule) < distance(begin) - 0.5
