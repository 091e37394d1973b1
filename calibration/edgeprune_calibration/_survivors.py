"""Which tokens of the dense sequence are left after each cut, followed in numpy from what the pruned graph computed.

Every cut speaks of the stream before it: its index is in coordinates of tokens that earlier cuts left. Here the
indices are composed, so that each surviving token has one position in the dense sequence: for a merged group, the
position of the token that the cut's index names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgeprune.core.errors import PassError
from edgeprune_calibration._specs import Array

BUG = "this is a bug in edgeprune: please report it with the model and the plan"


@dataclass(frozen=True, slots=True)
class Survivors:
    """The stream after a cut, seen from the dense sequence.

    Attributes:
        positions: [B,K] int64, where each token of the stream stands in the dense sequence.
        sizes: [B,K], how many tokens each stands for in attention; None while attention does not ask.
        mix: [B,T,T], what the dense stream is multiplied with at this cut; None where nothing is merged.
        stands: [B,T], the token of the dense sequence that stands at each place of it; None where each is its own.
    """

    positions: Array
    sizes: Array | None = None
    mix: Array | None = None
    stands: Array | None = None


def whole(batch: int, tokens: int) -> Survivors:
    """Every token, before the first cut."""
    return Survivors(np.tile(np.arange(tokens, dtype=np.int64), (batch, 1)))


def after_cut(before: Survivors, index: Array, matrix: Array | None, size: Array | None, tokens: int) -> Survivors:
    """Follow one cut.

    Shapes:
        index [B,K'], matrix [B,K',K] or None, size [B,K'] or None, with K the length of the stream before.

    Raises:
        PassError: if index or matrix break the contract of a cut.
    """
    _check(before, index, matrix)
    positions = np.take_along_axis(before.positions, index, axis=1)
    mix = None if matrix is None else _mix(before.positions, positions, matrix, tokens)
    return Survivors(positions, _sizes(before, index, matrix, size), mix)


def merge_matrix(index: Array, source: Array, own: Array, weights: Array, length: int) -> Array:
    """[B,K',K] of new = own * old[index] + weights @ old[source].

    Shapes:
        index [B,K'], source [B,R], own [B,K',1], weights [B,K',R], `length` K of the stream before.
    """
    matrix = np.zeros((*index.shape, length), dtype=np.float32)
    np.put_along_axis(matrix, index[..., None], own.reshape(*index.shape, 1), axis=2)
    for sample, sources, shares in zip(matrix, source, weights, strict=True):
        # Not `sample[:, sources] +=`: that counts a token that is named twice only once.
        np.add.at(sample.T, np.asarray(sources, dtype=np.int64), shares.T)
    return matrix


def scaled(survivors: Survivors, scale: Array) -> Survivors:
    """The same with every token of the stream multiplied by `scale` [B,K,1] behind the mean.

    Raises:
        PassError: if a factor is below one: it gives a mean back the length that averaging took from it.
    """
    if survivors.mix is None or not (scale >= 1 - 1e-3).all():
        msg = f"factors of merged tokens are {scale.min():.4f}..{scale.max():.4f}, expected 1 or more behind a merge"
        raise PassError(msg, hint=BUG)
    mix = survivors.mix.copy()
    for sample, rows, factors in zip(mix, survivors.positions, scale, strict=True):
        sample[rows] *= factors.reshape(-1, 1)
    return replace(survivors, mix=mix)


def column_bias(survivors: Survivors, tokens: int) -> Array:
    """[B,T] to add to attention logits: -inf on removed tokens, log(size) on the others."""
    batch = len(survivors.positions)
    bias = np.full((batch, tokens), -np.inf, dtype=np.float32)
    kept = np.zeros(survivors.positions.shape) if survivors.sizes is None else np.log(survivors.sizes)
    np.put_along_axis(bias, survivors.positions, kept.astype(np.float32), axis=1)
    return bias


def _sizes(before: Survivors, index: Array, matrix: Array | None, size: Array | None) -> Array | None:
    if size is not None:
        return size.reshape(index.shape)
    if before.sizes is None:
        return None
    if matrix is None:
        return np.take_along_axis(before.sizes, index, axis=1)
    return np.asarray(np.einsum("bkn,bn->bk", matrix != 0, before.sizes))


def _mix(old: Array, new: Array, matrix: Array, tokens: int) -> Array:
    """Spread [B,K',K] over dense positions; rows of removed tokens keep their own value, nobody attends to them."""
    mix = np.tile(np.eye(tokens, dtype=np.float32), (len(old), 1, 1))
    for sample, rows, columns, weights in zip(mix, new, old, matrix, strict=True):
        sample[rows] = 0
        sample[np.ix_(rows, columns)] = weights
    return mix


def _check(before: Survivors, index: Array, matrix: Array | None) -> None:
    batch, length = before.positions.shape
    if index.ndim != 2 or len(index) != batch or index.min() < 0 or index.max() >= length:
        found = f"shape {index.shape}, values {index.min()}..{index.max()}"
        msg = f"index of a cut has {found}, expected [{batch},K'] below {length}"
        raise PassError(msg, hint=BUG)
    if any(len(np.unique(row)) != len(row) for row in index):
        msg = "index of a cut names a token twice, expected each at most once"
        raise PassError(msg, hint=BUG)
    if matrix is None:
        return
    if matrix.shape != (*index.shape, length):
        msg = f"merge matrix of a cut has shape {matrix.shape}, expected {(*index.shape, length)}"
        raise PassError(msg, hint=BUG)
    if np.abs(matrix.sum(-1) - 1).max() > 1e-3:  # a mean: fp32 divisions leave 1e-6, a forgotten one far more
        msg = f"rows of a merge matrix sum to {matrix.sum(-1).min():.4f}..{matrix.sum(-1).max():.4f}, expected 1"
        raise PassError(msg, hint=BUG)
