"""Several weights that the same units stand in front of, as one: what goes is to be missed little by all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune_calibration.moments import Floats, Moments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune.core.widths.units import Units


@dataclass(frozen=True, slots=True, eq=False)
class Front:
    """One weight and what stands in front of it.

    Attributes:
        moments: of its input.
        weight: [d, o], scaled by what follows it.
        units: [d], the unit of each row.
    """

    moments: Moments
    weight: Floats
    units: Units


def coupled(fronts: Sequence[Front]) -> Front:
    """All of them side by side; of every output the variance counts the same, of every input the mean variance."""
    if len(fronts) == 1:
        return fronts[0]
    rows, columns = (sum(front.weight.shape[axis] for front in fronts) for axis in (0, 1))
    gram, weight = np.zeros((rows, rows)), np.zeros((rows, columns))
    row = column = 0
    for front in fronts:
        sigma = front.moments.covariance
        spread = max(float(np.diag(sigma).mean()), np.finfo(float).tiny)
        energy = max(float((front.weight * (sigma @ front.weight)).sum()), np.finfo(float).tiny)
        high, wide = front.weight.shape
        gram[row : row + high, row : row + high] = sigma / spread
        weight[row : row + high, column : column + wide] = front.weight * np.sqrt(spread / energy)
        row, column = row + high, column + wide
    # Moments of one row with no mean: the covariance is what was laid down.
    units = np.concatenate([front.units for front in fronts])
    return Front(Moments(1, np.zeros(rows), gram), weight, units)
