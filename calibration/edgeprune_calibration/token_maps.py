"""What a pruned graph did with the tokens of real samples, read from the graph itself; and pictures of the samples.

Every cut says which tokens of the stream before it are left, and what was merged into them. Composed, cut after cut,
that says for each patch of the dense grid where it went:

    place[i]   = position of patch i's token in the stream, -1 once it was dropped
    owners[i]  = patch at whose position the stream's token `place[i]` stands in the dense grid
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.errors import ModelError, PassError
from edgeprune.core.graph import constant_of, static_shape
from edgeprune.core.results import CutMap, Drift, TokenMap, WorstSample
from edgeprune_calibration._sites import CutSite, every_cut, find_sites
from edgeprune_calibration._survivors import BUG, Survivors, after_cut, merge_matrix, whole
from edgeprune_calibration._thumbnails import save_thumbnail
from edgeprune_calibration.runner import Runner

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.plan import Plan
    from edgeprune_calibration._specs import Array
    from edgeprune_calibration.data import Dataset, Feed


def collect_token_maps(
    pruned: ir.Model, dataset: Dataset, plan: Plan, folder: Path, *, n: int = 4, threads: int = 0
) -> tuple[TokenMap, ...]:
    """Follow the tokens of `n` samples, evenly spaced over the data, and save their pictures in `folder`/samples.

    Args:
        pruned: the compiled graph; not edited.
        dataset: samples for its inputs.
        plan: that was applied to it.
        folder: the output folder.
        n: how many samples, at most.
        threads: of ONNX Runtime; 0 leaves it to the runtime.

    Returns:
        One map a sample; none where nothing is cut, or where the grid of the patches is not known for sure.

    Raises:
        ModelError: if the graph does not say what its cuts did.
        PassError: if a cut breaks its contract.
    """
    grid = grid_of(pruned, plan.patch_tokens)
    if grid is None or not every_cut(plan):
        return ()
    follower = _Follower(pruned, plan, threads)
    count = min(n, len(dataset))
    chosen = [i * len(dataset) // count for i in range(count)]
    batch = next(iter(plan.inputs.values()))[0]
    maps = []
    for names, feed in dataset.feeds(chosen, batch):
        cuts = follower.follow(feed)
        for position, name in enumerate(names):
            image = save_thumbnail(dataset, dataset.names.index(name), folder)
            owners = tuple(CutMap(block=block, owners=owners[position]) for block, owners in cuts)
            maps.append(TokenMap(sample=name, image=image, rows=grid[0], columns=grid[1], cuts=owners))
    return tuple(maps)


def save_worst(drift: Mapping[str, Drift], dataset: Dataset, folder: Path, *, n: int = 6) -> tuple[WorstSample, ...]:
    """Name the samples that drifted most, worst first and each once, and save their pictures in `folder`/samples.

    Args:
        drift: by output, measured on all of `dataset` in its order.
        dataset: the samples.
        folder: the output folder.
        n: how many samples, at most.

    Raises:
        PassError: if the drift was measured on other samples.
    """
    for output, d in drift.items():
        if len(d.relative_errors) not in (0, len(dataset)):
            msg = f"the drift of `{output}` is of {len(d.relative_errors)} samples, the data has {len(dataset)}"
            raise PassError(msg, hint=BUG)
    seen = [(error, output, i) for output, d in drift.items() for i, error in enumerate(d.relative_errors)]
    worst: dict[int, WorstSample] = {}
    for error, output, i in sorted(seen, key=lambda item: (-_past_all(item[0]), item[2])):
        if i in worst:
            continue
        if len(worst) == n:
            break
        image = save_thumbnail(dataset, i, folder)
        worst[i] = WorstSample(sample=dataset.names[i], output=output, relative_error=error, image=image)
    return tuple(worst.values())


def grid_of(model: ir.Model, patches: int) -> tuple[int, int] | None:
    """Rows and columns of the patches; None where the graph does not say, for nothing is guessed.

    A patch embedding that is a convolution says it by its output. Where there is none, as many rows as columns are
    believed for a square picture only. A model without a picture has one row.
    """
    shapes = [static_shape(node.outputs[0]) for node in model.graph if node.op_type == "Conv"]
    grids = {shape[2:] for shape in shapes if shape is not None and len(shape) == 4 and shape[2] * shape[3] == patches}
    if len(grids) == 1:
        rows, columns = grids.pop()
        return rows, columns
    inputs = [static_shape(value) or () for value in model.graph.inputs]
    if grids or not inputs:
        return None
    if all(len(shape) < 4 for shape in inputs):
        return 1, patches
    side = round(patches**0.5)
    square = any(len(shape) == 4 and (shape[2] == shape[3] or shape[1] == shape[2]) for shape in inputs)
    return (side, side) if square and side * side == patches else None


class _Follower:
    """A session that tells what the cuts did, and what does not depend on the sample."""

    def __init__(self, pruned: ir.Model, plan: Plan, threads: int) -> None:
        self.plan = plan
        self.sites = find_sites(pruned, plan, [""] * len(every_cut(plan)))
        names = [name for site in self.sites for name in (site.index, *site.merge)]
        found = {name: constant_of(pruned.graph.initializers.get(name)) for name in names}
        self.constants = {name: value for name, value in found.items() if value is not None}
        self.computed = [name for name in names if name not in self.constants]
        self.runner = Runner(_exposed(pruned, self.computed), threads=threads)

    def follow(self, feed: Feed) -> list[tuple[int, list[tuple[int, ...]]]]:
        """For each cut its block, and the owners in each sample of the batch."""
        values = self.constants | (self.runner.run(feed, self.computed) if self.computed else {})
        run, patches = self.plan.run(), self.plan.patch_tokens
        batch = len(next(iter(feed.values())))
        stream = whole(batch, len(run) + patches)
        place = stream.positions.copy()
        out = []
        for site in self.sites:
            index, matrix = _selection(values, site, batch, stream)
            moved = _moves(index, matrix, stream.positions.shape[1])
            stream = after_cut(stream, index, matrix, None, len(run) + patches)
            place = np.where(place < 0, -1, np.take_along_axis(moved, np.maximum(place, 0), axis=1))
            block = site.block if site.block < self.plan.blocks else -1
            out.append((block, [_owners(*each, run) for each in zip(place, stream.positions, strict=True)]))
        return out


def _selection(values: Feed, site: CutSite, batch: int, stream: Survivors) -> tuple[Array, Array | None]:
    """Index of a cut and, of a merge, its matrix [B,K',K]; what is the same for all samples may come once."""
    index, *merge = (_each(values[name], batch) for name in (site.index, *site.merge))
    if len(merge) < 3:
        return index, merge[0] if merge else None
    source, own, weights = merge
    return index, merge_matrix(index, source, own, weights, stream.positions.shape[1])


def _each(value: Array, batch: int) -> Array:
    return value if len(value) == batch else np.repeat(value, batch, axis=0)


def _moves(index: Array, matrix: Array | None, length: int) -> Array:
    """[B,K]: where each token of the stream before a cut is after it, -1 where it is nowhere.

    A token that went into several is where the most of it went.
    """
    moved = np.full((len(index), length), -1, dtype=np.int64)
    if matrix is not None:
        share = np.abs(matrix)
        moved = np.where(share.max(axis=1) > 0, share.argmax(axis=1), -1)
    # What the index names stands there itself, whatever else has a part of it.
    np.put_along_axis(moved, index, np.broadcast_to(np.arange(index.shape[1]), index.shape), axis=1)
    return moved


def _owners(place: Array, positions: Array, run: range) -> tuple[int, ...]:
    """Patches of the dense grid that stand for the patches; -1 for what was dropped, or went into a prefix token.

    `run` says where the prefix tokens stand in the dense sequence, which are no patches of it.
    """
    patch = np.full(len(place), -1)
    patch[np.setdiff1d(np.arange(len(place)), run)] = np.arange(len(place) - len(run))
    places = np.delete(place, run)
    at = np.where(places < 0, -1, patch[positions[np.maximum(places, 0)]])
    return tuple(int(owner) for owner in at)


def _exposed(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy with inner values as further outputs.

    Raises:
        ModelError: if there is no such value.
    """
    copy = model.clone()
    inner = {value.name: value for node in copy.graph for value in node.outputs}
    known = {value.name for value in copy.graph.outputs}
    for name in names:
        if name not in inner:
            msg = f"the pruned graph has no value `{name}`, which says what a cut did"
            raise ModelError(msg, hint="give a model as `edgeprune compile` wrote it, with its own plan")
        if name not in known:
            copy.graph.outputs.append(inner[name])
    return copy


def _past_all(error: float) -> float:
    return float("inf") if np.isnan(error) else error
