"""Second moments of activations: what a solution by least squares needs to know about the data, and nothing more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over rows x of one value.

    Attributes:
        rows: how many.
        total: [..., d], sum of x.
        gram: [..., d, d], sum of x^T x.
    """

    rows: int
    total: Floats
    gram: Floats

    @property
    def mean(self) -> Floats:
        """[..., d]."""
        return self.total / self.rows

    @property
    def second(self) -> Floats:
        """E[x^T x], [..., d, d]."""
        return self.gram / self.rows

    @property
    def covariance(self) -> Floats:
        """E[x^T x] - mean^T mean, [..., d, d]."""
        mean = self.mean
        return self.second - mean[..., :, None] * mean[..., None, :]

    def of(self, columns: npt.NDArray[np.int64]) -> Moments:
        """The moments of some columns."""
        return Moments(self.rows, self.total[columns], self.gram[np.ix_(columns, columns)])


@dataclass(frozen=True, slots=True, eq=False)
class SplitMoments:
    """Moments of the samples that a solution is fitted on, and of those that it is judged on."""

    fit: Moments
    held: Moments

    @property
    def all(self) -> Moments:
        """Of all samples."""
        a, b = self.fit, self.held
        return Moments(a.rows + b.rows, a.total + b.total, a.gram + b.gram)
