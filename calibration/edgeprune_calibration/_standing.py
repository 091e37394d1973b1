"""Which token stands at each place of the dense sequence, where a plan lets tokens stand in for those that are gone.

Read from the pruned graph, so that a near-tie of two cosines cannot look like an error, and checked here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeprune.core.errors import PassError
from edgeprune_calibration._specs import Array
from edgeprune_calibration._survivors import BUG, Survivors

# Alignments in which tokens stand in for others: in front of convolutions, and perhaps of scans.
STANDING = frozenset({"neighbours", "stand-in"})

# Cosines of two runs differ by a few 1e-7: within this, either of two tokens is the nearest.
_TIE = 1e-5


def standing_in(before: Survivors, after: Survivors, standing: Array | None) -> Survivors:
    """The same survivors with who stands where.

    Args:
        before: the survivors of the cut before.
        after: of this cut.
        standing: [B,T], the token of the stream behind the cut that stands at each place of the dense sequence; None
            where nothing changes.

    Raises:
        PassError: if a token that is left does not stand at its own place, one that was merged not where it went, or
            one that stood in not where the one stands that does so for it.
    """
    if standing is None:
        return replace(after, stands=before.stands)
    stands = np.take_along_axis(after.positions, standing, axis=1)
    wrong = not np.array_equal(np.take_along_axis(stands, after.positions, axis=1), after.positions)
    if before.stands is not None:
        wrong |= not np.array_equal(stands, np.take_along_axis(stands, before.stands, axis=1))
    if after.mix is not None:
        for mix, alive, kept, row in zip(after.mix, before.positions, after.positions, stands, strict=True):
            lost = np.setdiff1d(alive, kept)
            wrong |= not np.array_equal(row[lost], kept[mix[np.ix_(kept, lost)].argmax(0)])
    if wrong:
        msg = "at the place of a token that is gone stands another than the one that it went into"
        raise PassError(msg, hint=BUG)
    return replace(after, stands=stands)


def check_likeness(x: Array, before: Survivors, after: Survivors, run: range) -> None:
    """Check that at the place of a dropped token the kept patch token stands that was as like it at the cut as any.

    Args:
        x: [B,T,D], the stream in front of the cut, right where a token was left.
        before: the survivors of the cut before.
        after: of this cut.
        run: where the prefix tokens stand, which stand in for none.

    Raises:
        PassError: if another was more like it.
    """
    if after.stands is None or after.mix is not None:
        return
    for rows, alive, kept, stands in zip(x, before.positions, after.positions, after.stands, strict=True):
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        patches, lost = kept[~np.isin(kept, run)], np.setdiff1d(alive, kept)
        best = (unit[lost] @ unit[patches].T).max(axis=1)
        if np.isin(stands[lost], run).any() or ((unit[lost] * unit[stands[lost]]).sum(-1) < best - _TIE).any():
            msg = "at the place of a dropped token stands another than the kept patch token that was most like it"
            raise PassError(msg, hint=BUG)
