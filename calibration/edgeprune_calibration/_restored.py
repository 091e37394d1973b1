"""What a restored stream must be, token by token in numpy, from the masked dense graph alone.

    y_i of a kept token is known; of one that a cut took out, by the mode that the pruned graph names,
      last-seen       x_i
      nearest         y of the kept patch token k with the largest cos(x_i, x_k)
      soft            sum_k w_ik y_k,         w = softmax over the kept patch tokens
      residual-delta  x_i + sum_k w_ik (y_k - z_k); a kept token: x_i + y_i - z_i
      cluster         sum_k w_ik y_k,         w by -|x_i - z_k|^2, for kept tokens as well
      unmerge         y of the token that i went into

with x the stream in front of the cut and z the stream behind it, undone from the last cut to the first. Everything
stands at its place in the dense sequence, so that no index has to be composed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.errors import ValidationError
from edgeprune.core.graph import PREFIX, downstream
from edgeprune_calibration._specs import Array
from edgeprune_calibration._survivors import Survivors

if TYPE_CHECKING:
    import onnx_ir as ir

_NAMED = f"{PREFIX}restored/"
_SHARPNESS = 0.05
# Cosines of two runs differ by a few 1e-7: within this, either of two tokens is the nearest.
_TIE = 1e-5


@dataclass(frozen=True, slots=True)
class Tap:
    """One stream that the pruned graph restored.

    Attributes:
        pruned: its name there, [B,T,D].
        dense: name of the dense graph's stream.
        mode: how.
        cuts: number of cuts above it.
    """

    pruned: str
    dense: str
    mode: str
    cuts: int


@dataclass(frozen=True, slots=True)
class Undone:
    """One cut of one sample, at places in the dense sequence.

    Attributes:
        x: [T,D], the stream in front of it; right where a token was left.
        z: [T,D], the stream behind it; right where a token is left.
        alive: tokens in front of it, ascending.
        kept: tokens behind it, ascending.
        into: [T], the kept token that each went into.
    """

    x: Array
    z: Array
    alive: Array
    kept: Array
    into: Array


def find_taps(dense: ir.Model, pruned: ir.Model, at: Sequence[str]) -> tuple[Tap, ...]:
    """The restored streams of a pruned graph, by the names that surgery gives them; `at` are the cuts' streams."""
    values = {str(v.name): v for node in dense.graph for v in node.outputs}
    taps = []
    for node in pruned.graph:
        for name in (str(v.name) for v in node.outputs):
            mode, _, stream = name.removeprefix(_NAMED).partition("/")
            if not name.startswith(_NAMED) or stream not in values:
                continue
            producer = values[stream].producer()
            above = sum(stream == cut or producer in downstream([values[cut]]) for cut in at)
            taps.append(Tap(name, stream, mode, above))
    return tuple(taps)


def stream_rows(value: Array, batch: int, tokens: int) -> Array:
    """A stream as [B,T,D] in whatever order of axes it is.

    Raises:
        ValidationError: if it has no axis of that many tokens.
    """
    if value.shape[:2] == (batch, tokens):
        return value.reshape(batch, tokens, -1)
    if value.ndim == 3 and value.shape[:2] == (tokens, batch):
        return value.transpose(1, 0, 2)
    axes = [i for i, size in enumerate(value.shape) if size == tokens]
    if batch != 1 or not axes:
        msg = f"a restored stream has shape {list(value.shape)}, expected [{batch},{tokens},D]"
        raise ValidationError(msg, hint="check this graph at batch 1")
    return np.moveaxis(value, axes[0], 0).reshape(1, tokens, -1)


def expected(
    tap: Tap, streams: Sequence[Array], y: Array, after: Sequence[Survivors], prefix: range, found: Array
) -> Array:
    """The whole stream [B,T,D] that a tap must hold.

    Args:
        tap: which.
        streams: [B,T,D] in front of each cut.
        y: [B,T,D], the tapped stream of the masked dense graph.
        after: the survivors after each cut.
        prefix: where the prefix tokens stand.
        found: [B,T,D] of the pruned graph.
    """
    batch, tokens, _ = y.shape
    out = []
    for b in range(batch):
        alive, undone = np.arange(tokens), []
        for x, survivors in zip(streams[: tap.cuts], after, strict=False):
            undone.append(_undone(x[b], survivors, alive, b))
            alive = undone[-1].kept
        # Where a cut stands at the tapped stream itself, what is tapped is the stream behind it.
        known = undone[-1].z if undone and np.array_equal(y[b], undone[-1].x) else y[b]
        changing = [cut for cut in undone if len(cut.kept) < len(cut.alive)]
        out.append(restored(tap.mode, known, changing, prefix, found[b]))
    return np.stack(out)


def _undone(x: Array, survivors: Survivors, alive: Array, sample: int) -> Undone:
    kept = survivors.positions[sample]
    into, z = np.arange(len(x)), x
    if survivors.mix is not None:
        mix = survivors.mix[sample]
        z = mix @ x
        lost = np.setdiff1d(alive, kept)
        into[lost] = kept[mix[np.ix_(kept, lost)].argmax(0)]
    return Undone(x, z, alive, kept, into)


def restored(mode: str, y: Array, cuts: Sequence[Undone], prefix: range, found: Array) -> Array:
    """The whole stream [T,D] of one sample from its rows `y` behind the last cut.

    Args:
        mode: of the pruned graph.
        y: [T,D], right where the last cut left a token.
        cuts: in their order.
        prefix: where the prefix tokens stand, which come back as they are.
        found: [T,D] of the pruned graph; settles only which of two equally near tokens is the nearest.

    Raises:
        ValidationError: for a mode that this proof does not know.
    """
    if mode not in _MODES:
        msg = f"the graph restores by `{mode}`, which the proof does not know"
        raise ValidationError(msg, hint=f"it knows {', '.join(sorted(_MODES))}")
    y = y.astype(np.float64)
    for cut in reversed(cuts):
        y = _MODES[mode](y, cut, prefix, found)
    return y


def _last_seen(y: Array, cut: Undone, prefix: range, found: Array) -> Array:
    del prefix, found
    out = cut.x.astype(np.float64)
    out[cut.kept] = y[cut.kept]
    return out


def _unmerge(y: Array, cut: Undone, prefix: range, found: Array) -> Array:
    del prefix, found
    return np.asarray(y[cut.into])


def _nearest(y: Array, cut: Undone, prefix: range, found: Array) -> Array:
    out, kept = y.copy(), _patches(cut.kept, prefix)
    for i in np.setdiff1d(cut.alive, cut.kept):
        cosines = _cosines(cut.x[[i]], cut.x[kept])[0]
        near = kept[cosines >= cosines.max() - _TIE]
        out[i] = y[near[np.abs(y[near] - found[i]).sum(-1).argmin()]]
    return out


def _patches(positions: Array, prefix: range) -> Array:
    return positions[~np.isin(positions, prefix)]


def _soft(y: Array, cut: Undone, prefix: range, found: Array) -> Array:
    del found
    patches, kept = _patches(cut.alive, prefix), _patches(cut.kept, prefix)
    weights = _softmax(_cosines(cut.x[patches], cut.x[kept]))
    lost = ~np.isin(patches, kept)
    out = y.copy()
    out[patches[lost]] = (weights @ y[kept])[lost]
    return out


def _residual_delta(y: Array, cut: Undone, prefix: range, found: Array) -> Array:
    change = _soft(y - cut.z, cut, prefix, found)
    patches = _patches(cut.alive, prefix)
    out = y.copy()
    out[patches] = cut.x[patches] + change[patches]
    return out


def _cluster(y: Array, cut: Undone, prefix: range, found: Array) -> Array:
    del found
    patches, kept = _patches(cut.alive, prefix), _patches(cut.kept, prefix)
    x, z = cut.x[patches].astype(np.float64), cut.z[kept].astype(np.float64)
    squares = ((x[:, None] - z[None]) ** 2).sum(-1)
    out = y.copy()
    out[patches] = _softmax(-squares) @ y[kept]
    return out


def _cosines(left: Array, right: Array) -> Array:
    one, other = (v.astype(np.float64) for v in (left, right))
    lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)
    return np.asarray(one @ other.T / np.maximum(lengths, 1e-12))


def _softmax(scores: Array) -> Array:
    """Of the distance to each row's best, in units of a twentieth of its mean."""
    short = scores - scores.max(1, keepdims=True)
    weights = np.exp(short / max(-short.mean() * _SHARPNESS, 1e-6))
    return np.asarray(weights / weights.sum(1, keepdims=True))


_MODES: dict[str, Callable[[Array, Undone, range, Array], Array]] = {
    "last-seen": _last_seen,
    "nearest": _nearest,
    "soft": _soft,
    "residual-delta": _residual_delta,
    "cluster": _cluster,
    "unmerge": _unmerge,
}
