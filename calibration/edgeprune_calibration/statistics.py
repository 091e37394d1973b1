"""Moments of activations by ONNX Runtime: Gram products are added to a copy of the graph, and only they leave it.

No activation is kept. Sums within one run are fp32, over runs fp64. Every fifth sample is held out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from onnx_ir.passes import common

from edgeprune.core.errors import DataError, ModelError
from edgeprune.core.graph import PREFIX, static_shape
from edgeprune.core.progress import SILENT
from edgeprune.core.tape import Tape
from edgeprune_calibration.moments import Moments, SplitMoments
from edgeprune_calibration.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx_ir as ir

    from edgeprune.core.progress import Progress
    from edgeprune_calibration.data import Dataset
    from edgeprune_calibration.store import Store

# Held-out samples are number 0, 5, 10, ... of the data.
EVERY = 5
FEWEST_SAMPLES = 2

# Sums of one pass over the data, fitted and held-out; more sites than fit take further passes.
_BUDGET_BYTES = 3 << 30


@dataclass(frozen=True, slots=True)
class Probe:
    """A value whose moments are wanted.

    Attributes:
        name: under which they are returned.
        node: name of an output of the node that reads the value; such names survive cuts of tokens.
        index: which input of that node.
        heads: 0 for moments of the last axis over all others; else the number of heads, of which each has its own.
        transposed: the value is [..., d, T], as keys are.
    """

    name: str
    node: str
    index: int = 0
    heads: int = 0
    transposed: bool = False


def collect(  # noqa: PLR0913 - a graph, what to run it on, and how
    model: ir.Model,
    probes: Sequence[Probe],
    data: Dataset,
    *,
    batch: int,
    threads: int = 0,
    progress: Progress | None = None,
    store: Store | None = None,
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

    Raises:
        DataError: if there are too few samples, or an activation is NaN or infinite.
        ModelError: if a probe's node is not in the graph.
    """
    if len(data) < FEWEST_SAMPLES:
        msg = f"widths are chosen on data of {len(data)} samples, expected {FEWEST_SAMPLES} or more"
        raise DataError(msg, hint="give --data a folder with more images; 64 to 256 are a good number")
    found: dict[str, SplitMoments] = {}
    for number, part in enumerate(_passes(model, probes)):
        run = _Pass(model, part, batch, threads)
        key = f"{number}-{len(part)}"
        found |= run.over(data, progress or SILENT, store, key)
    return found


def _passes(model: ir.Model, probes: Sequence[Probe]) -> Iterator[list[Probe]]:
    """Probes that are taken together: as many as fit the budget of memory."""
    part: list[Probe] = []
    used = 0
    for probe in probes:
        size = 2 * 8 * prod(_gram_shape(model, probe))
        if part and used + size > _BUDGET_BYTES:
            yield part
            part, used = [], 0
        part.append(probe)
        used += size
    if part:
        yield part


def _value(model: ir.Model, probe: Probe) -> ir.Value:
    for node in model.graph:
        if any(value.name == probe.node for value in node.outputs):
            value = node.inputs[probe.index]
            if value is not None and static_shape(value) is not None:
                return value
    msg = f"the graph computes no `{probe.node}` from a value of static shape"
    raise ModelError(msg, hint="this is a bug in edgeprune; please report it with the model's architecture")


def _gram_shape(model: ir.Model, probe: Probe) -> tuple[int, ...]:
    shape = static_shape(_value(model, probe)) or ()
    size = shape[-2] if probe.transposed else shape[-1]
    return (probe.heads, size, size) if probe.heads else (size, size)


class _Pass:
    """One pass over the data: a session, and the sums so far."""

    def __init__(self, model: ir.Model, probes: Sequence[Probe], batch: int, threads: int) -> None:
        copy = model.clone()
        self.probes, self.batch = list(probes), batch
        self.rows = {probe.name: _add_probe(copy, probe, batch) for probe in probes}
        common.RemoveUnusedNodesPass()(copy)
        self.runner = Runner(copy, threads=threads)
        shapes = {probe.name: _gram_shape(model, probe) for probe in probes}
        self.sums = {
            f"{name}/{part}/{what}": np.zeros(shape if what == "gram" else shape[:-1])
            for name, shape in shapes.items()
            for part in ("fit", "held")
            for what in ("gram", "total")
        }
        self.counts = np.zeros(2, np.int64)

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
                    store.keep(key, lambda: {**self.sums, "counts": self.counts}, done, last=done == len(data))
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
            for what in ("gram", "total"):
                array = out[f"{PREFIX}probe/{probe.name}/{what}"]
                if not np.isfinite(array).all():
                    msg = f"an activation at {probe.name} is NaN or infinite on {names[0]}"
                    raise DataError(msg, hint="check the preprocessing of the data, and the model in ONNX Runtime")
                self.sums[f"{probe.name}/{part}/{what}"] += array
        self.counts[int(part == "held")] += self.batch

    def _split(self, probe: Probe) -> SplitMoments:
        return SplitMoments(*(self._moments(probe, part) for part in ("fit", "held")))

    def _moments(self, probe: Probe, part: str) -> Moments:
        rows = int(self.counts[int(part == "held")]) * self.rows[probe.name] // self.batch
        total, gram = (self.sums[f"{probe.name}/{part}/{what}"] for what in ("total", "gram"))
        return Moments(rows, total, gram)

    def _load(self, store: Store | None, key: str) -> int:
        """Go on where an earlier run stopped."""
        kept = store.load(key) if store is not None else None
        if kept is None:
            return 0
        arrays, done = kept
        if arrays.keys() != {*self.sums, "counts"}:
            return 0
        self.counts = arrays["counts"]
        self.sums = {name: np.asarray(arrays[name], np.float64) for name in self.sums}
        return done


def _add_probe(model: ir.Model, probe: Probe, batch: int) -> int:
    """Write a probe's products into the graph; the number of rows that one run sums over (of each head)."""
    value = _value(model, probe)
    if not any(str(v.name).startswith(f"{PREFIX}probe/") for v in model.graph.outputs):
        model.graph.outputs.clear()
    tape = Tape(model, before=None, prefix=f"{PREFIX}probe/{probe.name}")
    shape = static_shape(value) or ()
    if probe.transposed:
        order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        value, shape = tape.op("Transpose", value, perm=order), tuple(shape[i] for i in order)
    if probe.heads:
        rows, flat = _by_head(tape, value, shape, probe.heads, batch)
        axis = 1
    else:
        rows, axis = prod(shape[:-1]), 0
        flat = tape.op("Reshape", value, tape.ints([rows, shape[-1]]))
    swap = [0, 2, 1] if axis else [1, 0]
    gram = tape.op("MatMul", tape.op("Transpose", flat, perm=swap), flat, name="gram")
    total = tape.reduce("ReduceSum", flat, axis)
    total = tape.op("Identity", total, name="total")
    model.graph.outputs.extend([gram, total])
    return rows


def _by_head(tape: Tape, value: ir.Value, shape: tuple[int, ...], heads: int, batch: int) -> tuple[int, ir.Value]:
    """[B, H, T, d] or [B*H, T, d] as [H, B*T, d]."""
    tokens, size = shape[-2:]
    four = tape.op("Reshape", value, tape.ints([batch, heads, tokens, size]))
    ordered = tape.op("Transpose", four, perm=[1, 0, 2, 3])
    return batch * tokens, tape.op("Reshape", ordered, tape.ints([heads, batch * tokens, size]))
