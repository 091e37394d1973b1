"""How wide an interval has to be: quantiles of held-out errors, each device counting the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from _latency_fit import Judgement
from _latency_table import Table

SHARE = 0.8  # of true values that an interval is to hold
_LEAST = 0.1  # of the logarithm of a speed-up, below which its error does not shrink further
_PAIR = (1.05, 4.0)  # ratios of modelled times that a pair may have: what pruning changes

_SAME = ("board", "device", "graph", "runtime", "precision")


def half_width(errors: Any, groups: Iterable[str]) -> float:
    """Quantile of the absolute errors at SHARE; every group weighs the same, and so do the errors within it."""
    names = list(groups)
    sizes = Counter(names)
    sizes_of = np.array([1.0 / sizes[name] for name in names])
    absolute = np.abs(np.asarray(errors))
    order = np.argsort(absolute)
    share = np.cumsum(sizes_of[order]) / sizes_of.sum()
    return float(absolute[order][np.searchsorted(share, SHARE - 1e-9)])


def widths(table: Table, judged: Judgement, keep: Any) -> dict[str, float]:
    """Half-widths of the interval of log(latency) by situation, from the kept rows alone.

    'device': the device's own rows were in the fit; 'architecture': another device's of its architecture; 'none': none
    of its architecture; 'family': the model is of a kind that was left out of the fit altogether.
    """
    boards = np.array([row.board for row in table.rows])
    found = {
        "device": half_width(judged.without_model[keep], boards[keep]),
        "architecture": half_width(judged.without_device[keep], boards[keep]),
    }
    strange = keep & ~judged.own_family
    found["none"] = half_width(judged.without_device[strange], boards[strange]) if strange.any() else 0.0
    found["family"] = half_width(judged.without_family[keep], boards[keep])
    found["architecture"] = max(found["device"], found["architecture"])
    found["none"] = max(found["architecture"], found["none"])
    found["family"] = max(found["none"], found["family"])
    return found


def coverage(table: Table, judged: Judgement) -> tuple[Any, Any]:
    """Whether each judged row lies in its interval: left out by device, and by model.

    The width comes from the errors of other folds only, never from the row's own.
    """
    mask = np.array([row.judged for row in table.rows])
    boards, graphs = (np.array([getattr(row, name) for row in table.rows]) for name in ("board", "graph"))
    by_device, by_model = np.zeros(len(mask), dtype=bool), np.zeros(len(mask), dtype=bool)
    for board in sorted(set(boards[mask])):
        width = widths(table, judged, mask & (boards != board))
        for at in np.flatnonzero(mask & (boards == board)):
            kind = "architecture" if judged.own_family[at] else "none"
            by_device[at] = abs(judged.without_device[at]) <= width[kind]
    for graph in sorted(set(graphs[mask])):
        others = mask & (graphs != graph)
        width_of = half_width(judged.without_model[others], boards[others])
        by_model[mask & (graphs == graph)] = np.abs(judged.without_model[mask & (graphs == graph)]) <= width_of
    return by_device, by_model


def pairs(table: Table, judged: Judgement) -> tuple[Any, list[str]]:
    """Error of the logarithm of a speed-up over that logarithm, for pairs of rows; and the board of each pair.

    A pair is one model on one device, runtime and precision at two batches or input sizes: what pruning does to the
    shapes, measured on both sides.
    """
    modelled = table.logs - judged.without_device
    errors, boards = [], []
    for a, first in enumerate(table.rows):
        for b, second in enumerate(table.rows):
            same = all(getattr(first, word) == getattr(second, word) for word in _SAME)
            gain = modelled[a] - modelled[b]
            if same and first.judged and np.log(_PAIR[0]) < gain <= np.log(_PAIR[1]):
                errors.append((judged.without_device[a] - judged.without_device[b]) / max(gain, _LEAST))
                boards.append(first.board)
    return np.array(errors), boards
