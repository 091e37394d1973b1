"""Statistics of timed runs: the ratio of paired runs with an interval. Nothing here assumes a form.

Latencies have a long tail to the slow side, so that means and standard deviations say little about them. Medians and
the sign test's interval need no assumption but that the rounds are alike, and one disturbed round moves neither.
"""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

from edgeprune.report.benched import Ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune.core.results import Timing

# So many rounds are needed before the sign test can exclude anything at 95 %: 1 - 2 / 2**n >= 0.95.
FEWEST_ROUNDS = 6

# The slow tenth takes a quarter more than the median: on a quiet machine it is a few percent.
_WIDE = 1.25


def is_dispersed(timing: Timing) -> bool:
    """Whether the slow tenth is so far from the median that something else was at work."""
    return timing.p90_ms > _WIDE * timing.p50_ms


def ratio_of(ratios: Sequence[float]) -> Ratio:
    """Median of the rounds' ratios with its 80 % and 95 % intervals by the sign test."""
    low_80, high_80 = sign_interval(ratios, 0.80)
    low_95, high_95 = sign_interval(ratios, 0.95)
    return Ratio(
        median=median(ratios), low_80=low_80, high_80=high_80, low_95=low_95, high_95=high_95, rounds=len(ratios)
    )


def sign_interval(samples: Sequence[float], confidence: float) -> tuple[float, float]:
    """Interval of the median between two order statistics, at least as sure as `confidence`.

    The number of samples below the median is binomial(n, 1/2) whatever they are distributed like: the k-th smallest and
    the k-th largest hold the median with probability 1 - 2 P(X < k). The largest such k is taken; where there are too
    few samples for any, all of them are the interval.

    Source: Conover, Practical Nonparametric Statistics, section 3.2.
    """
    ordered, n = sorted(samples), len(samples)
    k, below = 1, 0.5**n
    while k < n / 2 and 1 - 2 * (below + math.comb(n, k) * 0.5**n) >= confidence:
        below += math.comb(n, k) * 0.5**n
        k += 1
    return ordered[k - 1], ordered[n - k]
