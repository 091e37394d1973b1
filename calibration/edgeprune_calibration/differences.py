"""How far two arrays are apart, as all proofs count it."""

from __future__ import annotations

import numpy as np


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Largest |one - other|; equal infinities and NaN on both sides are no difference, NaN on one side is infinite."""
    if one.shape != other.shape:
        return float("inf")
    left, right = one.astype(np.float64), other.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(left - right))
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))
