"""Units in front of several weights: what goes is chosen by what all of them lose."""

from __future__ import annotations

import numpy as np

from edgeprune_calibration._coupled import Front, coupled
from edgeprune_calibration.moments import Moments
from edgeprune_calibration.solving import eliminate

UNITS = 5


def front(seed: int, wide: int, scale: float = 1.0) -> tuple[Front, np.ndarray]:
    """A weight [5, wide] and 400 rows in front of it."""
    random = np.random.default_rng(seed)
    mixed = np.eye(UNITS) + 0.2 * random.standard_normal((UNITS, UNITS))
    x = random.standard_normal((400, UNITS)) @ mixed * scale + 1
    weight = random.standard_normal((UNITS, wide))
    return Front(Moments(len(x), x.sum(0), x.T @ x), weight, np.arange(UNITS)), x


def lost(x: np.ndarray, weight: np.ndarray, unit: int) -> float:
    """Share of the output's variance that the best fit by the other units leaves."""
    x = x - x.mean(0)
    y, rest = x @ weight, np.delete(x, unit, axis=1)
    left = y - rest @ np.linalg.lstsq(rest, y, rcond=None)[0]
    return float((left**2).sum() / (y**2).sum())


def test_one_weight_is_what_it_was() -> None:
    (alone, _) = front(0, 3)
    assert coupled([alone]) is alone


def test_the_first_that_goes_is_missed_least_by_all_together() -> None:
    (one, x), (two, z) = front(0, 3), front(1, 2, scale=100.0)
    both = coupled([one, two])
    order = eliminate(both.moments, both.weight, both.units, 1)
    sums = [lost(x, one.weight, unit) + lost(z, two.weight, unit) for unit in range(UNITS)]
    assert order.order[0] == int(np.argmin(sums))
    # Damping, a hundredth of the mean variance, makes every loss a little larger.
    assert np.isclose(order.loss[0], min(sums), rtol=0.1)
    assert np.isclose(order.energy, 2.0)


def test_neither_scale_of_inputs_nor_of_outputs_counts() -> None:
    (one, _), (two, z) = front(0, 3), front(1, 2)
    louder = Front(Moments(len(z), 10 * z.sum(0), 100 * z.T @ z), 7 * two.weight, two.units)
    orders = [eliminate(c.moments, c.weight, c.units, 1) for c in (coupled([one, two]), coupled([one, louder]))]
    assert orders[0].order.tolist() == orders[1].order.tolist()
    np.testing.assert_allclose(orders[0].loss, orders[1].loss)
