"""Moments of activations by ONNX Runtime: Gram products are added to a copy of the graph, and only they leave it.

No activation is kept. Sums within one run are fp32, over runs fp64. Every fifth sample is held out. Padding does not
count.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
from onnx_ir.passes import common

from edgeprune.core.errors import DataError
from edgeprune.core.graph import PREFIX
from edgeprune.core.progress import SILENT
from edgeprune_calibration._probes import PARTS, Probe, add_probe, gram_shape
from edgeprune_calibration.moments import Moments, SplitMoments
from edgeprune_calibration.padding import SeenTokens
from edgeprune_calibration.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx_ir as ir

    from edgeprune.core.progress import Progress
    from edgeprune_calibration.data import Dataset
    from edgeprune_calibration.padding import Padding
    from edgeprune_calibration.store import Store

__all__ = ["EVERY", "FEWEST_SAMPLES", "Probe", "collect", "thin"]

# Held-out samples are number 0, 5, 10, ... of the data.
EVERY = 5
FEWEST_SAMPLES = 2

# Rows for each channel below which a fit is thin, and how many are plenty.
_THIN, _PLENTY = 5, 20

# Sums of one pass over the data, fitted and held-out; more sites than fit take further passes.
_BUDGET_BYTES = 3 << 30


def collect(  # noqa: PLR0913 - a graph, what to run it on, and how
    model: ir.Model,
    probes: Sequence[Probe],
    data: Dataset,
    *,
    batch: int,
    threads: int = 0,
    progress: Progress | None = None,
    store: Store | None = None,
    padding: Padding | None = None,
) -> dict[str, SplitMoments]:
    """Moments of all probes over the data.

    Args:
        model: canonical graph, tokens cut if they are to be; not edited.
        probes: what is wanted.
        data: at least two samples.
        batch: B of the graph.
        threads: of ONNX Runtime.
        progress: is told what is going on.
        store: keeps sums of a pass that was begun, and finished ones.
        padding: where the model says which tokens are none; they are left out.

    Raises:
        DataError: if there are too few samples, an activation is NaN or infinite, or all tokens are padding.
        ModelError: if a probe's node is not in the graph.
    """
    if len(data) < FEWEST_SAMPLES:
        msg = f"widths are chosen on {len(data)} sample, expected {FEWEST_SAMPLES} or more"
        raise DataError(msg, hint="give --data more samples; 64 to 256 are a good number")
    found: dict[str, SplitMoments] = {}
    for number, part in enumerate(_passes(model, probes)):
        run = _Pass(model, part, batch, threads, padding)
        key = f"{number}-{len(part)}"
        found |= run.over(data, progress or SILENT, store, key)
    return found


def thin(found: Mapping[str, SplitMoments], samples: int) -> str:
    """What a person must know where a Gram has few rows for its size, or less than its rank; empty where none has."""
    worst = min(found, key=lambda name: found[name].all.rows / found[name].all.total.shape[-1], default=None)
    if worst is None:
        return ""
    rows, width = found[worst].all.rows, found[worst].all.total.shape[-1]
    if rows >= _THIN * width:
        return ""
    short = "fewer than its rank" if rows < width else f"{rows / width:.1f} for each"
    needed, plenty = (-(-share * width * samples // rows) for share in (_THIN, _PLENTY))
    return (
        f"{samples} samples are {rows} tokens for the {width} channels at {worst}, {short}: "
        f"{needed} samples would be enough, {plenty} plenty"
    )


def _passes(model: ir.Model, probes: Sequence[Probe]) -> Iterator[list[Probe]]:
    """Probes that are taken together: as many as fit the budget of memory."""
    part: list[Probe] = []
    used = 0
    for probe in probes:
        size = 2 * 8 * prod(gram_shape(model, probe))
        if part and used + size > _BUDGET_BYTES:
            yield part
            part, used = [], 0
        part.append(probe)
        used += size
    if part:
        yield part


class _Pass:
    """One pass over the data: a session, and the sums so far."""

    def __init__(
        self, model: ir.Model, probes: Sequence[Probe], batch: int, threads: int, padding: Padding | None
    ) -> None:
        copy = model.clone()
        self.probes, self.batch = list(probes), batch
        writer = SeenTokens(copy, padding, batch) if padding is not None else None
        for probe in probes:
            add_probe(copy, probe, batch, writer)
        common.RemoveUnusedNodesPass()(copy)
        self.runner = Runner(copy, threads=threads)
        shapes = {probe.name: gram_shape(model, probe) for probe in probes}
        self.sums = {
            f"{name}/{part}/{what}": np.zeros(shape[: len(shape) - cut])
            for name, shape in shapes.items()
            for part in ("fit", "held")
            for what, cut in (("gram", 0), ("total", 1), ("rows", len(shape)))
        }

    def over(self, data: Dataset, progress: Progress, store: Store | None, key: str) -> dict[str, SplitMoments]:
        """Run over all samples that were not seen yet."""
        done = self._load(store, key)
        with progress.stage("statistics", len(data)) as stage:
            stage.advance(done)
            for part, names, feed in self._feeds(data, done):
                self._add(part, names, feed)
                done += len(names)
                stage.advance(len(names))
                if store is not None:
                    store.keep(key, lambda: self.sums, done, last=done == len(data))
        return {probe.name: self._split(probe) for probe in self.probes}

    def _feeds(self, data: Dataset, done: int) -> Iterator[tuple[str, tuple[str, ...], Mapping[str, np.ndarray]]]:
        """Held-out samples first, then the others; those before `done` are left out."""
        parts = {"held": [i for i in range(len(data)) if i % EVERY == 0]}
        parts["fit"] = [i for i in range(len(data)) if i % EVERY]
        for part, indices in parts.items():
            skipped = min(done, len(indices))
            done -= skipped
            for names, feed in data.feeds(indices[skipped:], batch=self.batch):
                yield part, names, feed

    def _add(self, part: str, names: tuple[str, ...], feed: Mapping[str, np.ndarray]) -> None:
        """Add one batch; a batch that was filled up with its last sample counts that sample several times over.

        Raises:
            DataError: if an activation is NaN or infinite.
        """
        out = self.runner.run(feed)
        for probe in self.probes:
            for what in PARTS:
                array = out[f"{PREFIX}probe/{probe.name}/{what}"]
                if not np.isfinite(array).all():
                    msg = f"an activation at {probe.name} is NaN or infinite on {names[0]}"
                    raise DataError(msg, hint="check the preprocessing of the data, and the model in ONNX Runtime")
                self.sums[f"{probe.name}/{part}/{what}"] += array

    def _split(self, probe: Probe) -> SplitMoments:
        return SplitMoments(*(self._moments(probe, part) for part in ("fit", "held")))

    def _moments(self, probe: Probe, part: str) -> Moments:
        """The moments of one part.

        Raises:
            DataError: if a mask leaves nothing of it.
        """
        total, gram, rows = (self.sums[f"{probe.name}/{part}/{what}"] for what in ("total", "gram", "rows"))
        if not rows:
            msg = f"all tokens at {probe.name} are padding, in every sample"
            raise DataError(msg, hint="give samples whose mask lets tokens through")
        return Moments(int(rows), total, gram)

    def _load(self, store: Store | None, key: str) -> int:
        """Go on where an earlier run stopped."""
        kept = store.load(key) if store is not None else None
        if kept is None:
            return 0
        arrays, done = kept
        if arrays.keys() != self.sums.keys():
            return 0
        self.sums = {name: np.asarray(arrays[name], np.float64) for name in self.sums}
        return done
