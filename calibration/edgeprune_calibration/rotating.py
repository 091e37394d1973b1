"""Smaller heads by a change of basis: rotate a head's coordinates so that the last ones hardly matter, then drop them.

    logits   q k^T  ~  (q A)(k B)^T      A, B [Dh, r] from the SVD of Gq^1/2 Gk^1/2
    values   A v W  ~  (A v T) W'        T [Dv, r] from the SVD of Sig^1/2 W

Softmax does not see what is added to a whole row of logits, so keys are centred. The scale stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgeprune_calibration.moments import Floats, Moments

_FLOOR = 1e-10
# A head whose logits are smaller than this part of what its queries and keys could make tells no token from another.
_BLIND = 1e-7
# Below any activation, and its root's inverse still has a square.
_NOTHING = 1e-60


@dataclass(frozen=True, slots=True, eq=False)
class LogitBasis:
    """Bases of one head's queries and keys, the most important coordinate first.

    Attributes:
        query: [Dh, Dh].
        key: [Dh, Dh].
        loss: [Dh + 1], share of the squared logits that is lost when so many coordinates stay.
    """

    query: Floats
    key: Floats
    loss: Floats


@dataclass(frozen=True, slots=True, eq=False)
class ValueBasis:
    """Basis of one head's values.

    Attributes:
        basis: [Dv, Dv], most important first.
        loss: [Dv + 1], squared output that is lost when so many coordinates stay.
    """

    basis: Floats
    loss: Floats


def logit_basis(queries: Moments, keys: Moments, head: int) -> LogitBasis:
    """The bases in which a head's logits need the fewest coordinates; as they are where all keys are one."""
    root_q, back_q = _roots(queries.second[head])
    root_k, back_k = _roots(keys.covariance[head])
    left, sizes, right = np.linalg.svd(root_q @ root_k)
    could = float(np.sqrt(np.trace(queries.second[head]) * np.trace(keys.second[head])))
    if sizes.max() <= max(_BLIND * could, np.sqrt(_NOTHING)):
        return LogitBasis(np.eye(len(sizes)), np.eye(len(sizes)), np.zeros(len(sizes) + 1))
    spread = np.sqrt(np.maximum(sizes, sizes.max() * _FLOOR))
    return LogitBasis(back_q @ left * spread, back_k @ right.T * spread, _tail(sizes) / max(_tail(sizes)[0], _tiny()))


def value_basis(sigma: Floats, weight: Floats) -> ValueBasis:
    """The basis in which a head's part of the output needs the fewest coordinates; columns of unit size.

    Shapes:
        sigma: [Dv, Dv], covariance of the head's output.
        weight: [Dv, D], its rows of the output projection, weighed.
    """
    root, back = _roots(sigma)
    left, sizes, _ = np.linalg.svd(root @ weight, full_matrices=True)
    basis = back @ left
    loss = _tail(np.concatenate([sizes, np.zeros(len(sigma) - len(sizes))]))
    return ValueBasis(basis / np.maximum(np.linalg.norm(basis, axis=0), _tiny()), loss)


def value_weight(sigma: Floats, basis: Floats, weight: Floats) -> Floats:
    """[r, D]: the rows that make most of v T for the output that v W was."""
    inner = basis.T @ sigma @ basis
    ridge = _FLOOR * max(float(np.trace(inner)) / len(inner), _NOTHING)
    return np.asarray(np.linalg.solve(inner + ridge * np.eye(len(inner)), basis.T @ sigma @ weight))


def _roots(gram: Floats) -> tuple[Floats, Floats]:
    """The symmetric root of a Gram matrix, and its inverse."""
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, max(float(values.max()), _NOTHING) * _FLOOR)
    return vectors * np.sqrt(values) @ vectors.T, vectors / np.sqrt(values) @ vectors.T


def _tail(sizes: Floats) -> Floats:
    """Sum of squares behind each position."""
    squares = np.concatenate([sizes**2, [0.0]])
    return np.asarray(squares[::-1].cumsum()[::-1])


def _tiny() -> float:
    return float(np.finfo(float).tiny)
