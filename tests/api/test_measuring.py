"""How is timed, by a clock of our own, and statistics by samples whose answer is known; no real time passes."""

from __future__ import annotations

import gc
import itertools
import math

import numpy as np
import pytest

from edgeprune.compiler.timing.measuring import clocked, interleave, order_of
from edgeprune.compiler.timing.paired import FEWEST_ROUNDS, is_dispersed, ratio_of, sign_interval
from edgeprune.core.results import Timing
from edgeprune_targets.builders.runner import timing_of


class Machine:
    """Models that take known times on a clock of their own, and a record of who ran when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def clock(self) -> float:
        return self.now

    def model(self, name: str, ms):
        times = iter(ms) if not isinstance(ms, int | float) else itertools.repeat(ms)

        def work(_: int) -> None:
            self.ran.append(name)
            self.now += next(times) / 1e3

        return clocked(work, self.clock)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_pairs_run_forth_and_back_and_each_round_begins_with_the_other(machine):
    taken = interleave([machine.model("A", 10), machine.model("B", 5)], rounds=4, warm_up=1, longest=1)
    assert "".join(machine.ran) == "AB" + "ABBA" + "BAAB" + "ABBA" + "BAAB"
    assert taken.runs_ms == (pytest.approx([10] * 8), pytest.approx([5] * 8))
    assert taken.ratios == pytest.approx([2] * 4)


def test_one_model_runs_twice_a_round_and_has_no_ratio(machine):
    taken = interleave([machine.model("A", 3)], rounds=3, warm_up=2, longest=2)
    assert machine.ran == ["A"] * 8
    assert taken.ratios == ()
    assert order_of(1, 5) == (0, 0)


def test_a_machine_that_slows_down_evenly_does_not_change_the_ratio(machine):
    """A model of 10 and one of 5 units on a clock that loses 5 % of a run at each."""

    def slowing(ms: float):
        return (ms * (1 + 0.05 * len(machine.ran)) for _ in itertools.count())

    taken = interleave(
        [machine.model("A", slowing(10)), machine.model("B", slowing(5))], rounds=8, warm_up=2, longest=2
    )
    plain = [a / b for a, b in zip(*taken.runs_ms, strict=True)]
    assert ratio_of(taken.ratios).median == pytest.approx(2, rel=1e-3)
    assert max(abs(p - 2) for p in plain) > 0.01  # runs side by side would show the drift


def test_every_round_is_preceded_by_a_look_outside_of_what_is_timed(machine):
    def look() -> None:
        machine.now += 1.0

    taken = interleave([machine.model("A", 2), machine.model("B", 2)], rounds=6, warm_up=1, between=look)
    assert max(*taken.runs_ms[0], *taken.runs_ms[1]) == pytest.approx(2)


def test_warm_up_lasts_until_times_settle(machine):
    falling = [100, 80, 60, 40, 20, 10, 10, 10, 10, 10, 10, 10, *[10] * 99]
    taken = interleave([machine.model("A", falling)], rounds=1, warm_up=1)
    # The median of five is 10 first when three of them are, at run 8; five runs earlier it was 60, and 10 at run 13.
    assert (taken.warm_up, taken.steady) == (13, True)
    assert taken.runs_ms == (pytest.approx([10, 10]),)


def test_warm_up_waits_for_the_slower_of_two_and_not_for_ever(machine):
    growing = (1.1**i for i in itertools.count())
    taken = interleave([machine.model("A", 10), machine.model("B", growing)], rounds=1, warm_up=1)
    assert (taken.warm_up, taken.steady) == (100, False)
    assert interleave([machine.model("A", 10)], rounds=1, warm_up=20).warm_up == 20


def test_models_are_fed_the_same_input_in_a_round():
    fed: list[tuple[str, int]] = []

    def model(name: str):
        return lambda run: fed.append((name, run)) or 1.0

    interleave([model("A"), model("B")], rounds=3, warm_up=1, longest=1)
    rounds = [fed[2 + 4 * i : 6 + 4 * i] for i in range(3)]
    assert [{run for _, run in round_} for round_ in rounds] == [{0}, {1}, {2}]


def test_one_disturbed_run_of_a_model_does_not_reach_the_ratio(machine):
    """Every second run of either takes twenty times as long, as threads of others on one's cores do."""
    hit = itertools.cycle([10, 200]), itertools.cycle([100, 5])
    taken = interleave([machine.model("A", hit[0]), machine.model("B", hit[1])], rounds=6, warm_up=1, longest=2)
    assert taken.ratios == pytest.approx([2] * 6)


def test_garbage_is_not_collected_meanwhile_and_again_afterwards():
    seen = []
    interleave([lambda _: seen.append(gc.isenabled()) or 1.0], rounds=1, warm_up=1)
    assert not any(seen)
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        interleave([lambda _: 1 / 0], rounds=1, warm_up=1)
    assert gc.isenabled()


def test_percentiles_of_0_to_100_are_themselves():
    samples = np.random.default_rng(0).permutation(np.arange(101.0)).tolist()
    assert timing_of(samples) == Timing(p50_ms=50, p90_ms=90, p99_ms=99, samples=101)
    assert timing_of([7.0]) == Timing(p50_ms=7.0, p90_ms=7.0, p99_ms=7.0, samples=1)


def test_dispersion_is_the_slow_tenth_against_the_median():
    assert not is_dispersed(timing_of([10.0] * 95 + [99.0] * 6))  # p90 is number 91 of 101
    assert is_dispersed(timing_of([10.0] * 90 + [12.6] * 11))
    assert not is_dispersed(timing_of([10.0] * 90 + [12.4] * 11))


@pytest.mark.parametrize(
    # Table of the sign test: (n, confidence) -> which order statistics, counted from 1.
    ("n", "confidence", "k"),
    [(6, 0.95, 1), (10, 0.95, 2), (20, 0.95, 6), (50, 0.95, 18), (4, 0.80, 1), (10, 0.80, 3), (5, 0.95, 1)],
)
def test_the_sign_interval_is_that_of_the_table(n, confidence, k):
    samples = np.random.default_rng(1).permutation(np.arange(1, n + 1)).tolist()
    assert sign_interval(samples, confidence) == (k, n + 1 - k)


def test_six_rounds_are_the_fewest_that_reach_95_percent():
    assert 1 - 2 * 0.5**FEWEST_ROUNDS >= 0.95 > 1 - 2 * 0.5 ** (FEWEST_ROUNDS - 1)


def test_intervals_hold_the_true_median_as_often_as_they_say():
    """Skewed samples with outliers, as latencies are: 2000 draws, of which binomial noise is under 1.5 %."""
    chance = np.random.default_rng(7)
    inside = {0.80: 0, 0.95: 0}
    for _ in range(2000):
        samples = (chance.exponential(size=25) * np.where(chance.random(25) < 0.05, 50, 1)).tolist()
        for confidence in inside:
            low, high = sign_interval(samples, confidence)
            inside[confidence] += low <= _TRUE_MEDIAN <= high
    assert 0.80 - 0.03 < inside[0.80] / 2000 < 0.92  # discrete: the next narrower interval would be below 80 %
    assert inside[0.95] / 2000 > 0.95 - 0.015


# Median of 95 % exponential and 5 % fifty times that: 0.95 exp(-m) + 0.05 exp(-m / 50) = 1/2, by bisection.
def _median() -> float:
    low, high = 0.0, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        above = 0.95 * math.exp(-middle) + 0.05 * math.exp(-middle / 50)
        low, high = (middle, high) if above > 0.5 else (low, middle)
    return low


_TRUE_MEDIAN = _median()


def test_a_disturbed_round_moves_neither_the_ratio_nor_its_interval():
    calm = [1.50 + 0.001 * i for i in range(30)]
    disturbed = [*calm[:-2], 40.0, 90.0]
    before, after = ratio_of(calm), ratio_of(disturbed)
    assert (before.median, before.low_95, before.high_95) == (after.median, after.low_95, after.high_95)
    assert before.low_95 <= before.low_80 <= before.median <= before.high_80 <= before.high_95
    assert before.rounds == 30
