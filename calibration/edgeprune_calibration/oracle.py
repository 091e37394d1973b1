"""The exactness proof: a pruned graph against the dense one with the same tokens masked out.

    pruned(x)  ==  dense(x) with, after every cut,
                     -inf on the columns of removed tokens in each later attention,
                     the value of a merged group at the position that the cut's index names,
                     log(size) on that column
                     input 0 in each later selective scan, with the step that the plan's alignment says; or, in
                     front of its convolution, the token that stands in

and, where tokens leave for the outputs, the rows of the outputs that belong to them.

Which tokens are removed is read from the pruned graph itself, sample by sample, so a near-tie of scores cannot look
like an error. Where the masks go is found here, from the dense graph alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.errors import PassError, PlanError, ValidationError
from edgeprune.core.flow.labels import sides
from edgeprune.core.graph import name_of
from edgeprune.core.readout import KEPT_INDICES
from edgeprune.core.results import Exactness
from edgeprune_calibration._compared import Comparison, Lengths, find_comparisons, take_rows
from edgeprune_calibration._exposing import constants_of, exposed, find_value, shapes_of
from edgeprune_calibration._masked import MaskedDense
from edgeprune_calibration._restored import Tap, expected, find_taps, stream_rows
from edgeprune_calibration._scanned import ScannedDense
from edgeprune_calibration._sites import CutSite, every_cut, find_sites
from edgeprune_calibration._specs import Array
from edgeprune_calibration._standing import STANDING, check_likeness, standing_in
from edgeprune_calibration._survivors import BUG, Survivors, after_cut, merge_matrix, scaled, whole
from edgeprune_calibration.data import Feed
from edgeprune_calibration.differences import largest_difference
from edgeprune_calibration.runner import Runner

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.plan import Plan

__all__ = ["Comparison", "CutSite", "find_sites", "prove"]

METHOD = "masked-dense"

# 109 real exports: worst error 6.5e-7 of the output's range, smallest effect of a wrong token 1.7e-3. 1e-4 leaves room
# for fp32 sums in another order through deep models, and still finds one wrong row.
TOLERANCE = 1e-4
# An error is small only beside what pruning changes: without this, a graph that drops nothing would pass as well.
SENSITIVITY = 20


def prove(  # noqa: PLR0913 (two graphs, what was done, where, and on what: none follows from another)
    dense: ir.Model,
    pruned: ir.Model,
    plan: Plan,
    cuts: Sequence[CutSite],
    feeds: Iterable[tuple[Sequence[str], Feed]],
    *,
    compare: Sequence[Comparison] | None = None,
    threads: int = 0,
) -> Exactness:
    """Prove that `pruned` is `dense` without the tokens that its cuts remove.

    Args:
        dense: canonical graph with static shapes; not edited.
        pruned: the same graph after surgery; not edited.
        plan: what was done to it.
        cuts: where, in the order of the blocks.
        feeds: (names of samples, arrays by input name), each at the graphs' batch size.
        compare: what to compare; found by itself where it is None.
        threads: of ONNX Runtime; 0 leaves it to the runtime.

    Raises:
        PlanError: if the cuts are not the plan's.
        PassError: if a cut breaks its contract: wrong count, a token twice, a matrix whose rows are no means.
        ValidationError: if the proof cannot be set up for this graph, or there is no sample.
    """
    if len(cuts) != len(every_cut(plan)):
        msg = f"the plan has {len(every_cut(plan))} cuts, {len(cuts)} are given to the proof"
        raise PlanError(msg, hint="prove a graph with the plan that made it")
    if not cuts:
        msg = "the plan has no cut, so there is nothing to prove"
        raise ValidationError(msg, hint="compare with the dense graph directly")
    task, proof, worst = _Task(dense, pruned, plan, tuple(cuts)), None, _Worst()
    for _, feed in feeds:
        proof = proof or _set_up(task, feed, compare, threads)
        proof.check(feed, worst)
    if proof is None:
        msg = "there is no sample to prove exactness on"
        raise ValidationError(msg, hint="give at least one")
    return worst.result(removing=any(cut.keep < plan.patch_tokens for cut in every_cut(plan)))


@dataclass(slots=True)
class _Worst:
    """Largest numbers seen so far."""

    error: float = 0.0
    value: float = 0.0
    sensitivity: float = 0.0

    def add(self, pruned: Array, masked: Array, dense: Array) -> None:
        self.error = max(self.error, largest_difference(pruned, masked))
        self.sensitivity = max(self.sensitivity, largest_difference(pruned, dense))
        self.value = max(self.value, float(np.abs(masked[np.isfinite(masked)]).max(initial=0.0)))

    def result(self, *, removing: bool) -> Exactness:
        small = self.error <= TOLERANCE * max(1.0, self.value)
        moved = self.sensitivity > SENSITIVITY * self.error or not removing
        return Exactness(
            method=METHOD,
            max_abs_error=self.error,
            max_abs_value=self.value,
            sensitivity=self.sensitivity,
            passed=small and moved,
        )


@dataclass(frozen=True, slots=True)
class _Task:
    """What is to be proved."""

    dense: ir.Model
    pruned: ir.Model
    plan: Plan
    cuts: tuple[CutSite, ...]

    @property
    def tokens(self) -> int:
        return self.plan.patch_tokens + self.plan.prefix_tokens

    @property
    def lengths(self) -> Lengths:
        last = every_cut(self.plan)[-1].keep + self.plan.prefix_tokens
        return Lengths(self.tokens, last, self.plan.prefix_tokens, self.plan.prefix_place)


def _set_up(task: _Task, feed: Feed, compare: Sequence[Comparison] | None, threads: int) -> _Proof:
    shapes = shapes_of(task.dense, feed), shapes_of(task.pruned, feed)
    last = find_value(task.dense, task.cuts[-1].at)
    compared = tuple(compare or find_comparisons(task.dense, task.pruned, last, shapes, task.lengths))
    taps = () if compare else find_taps(task.dense, task.pruned, [cut.at for cut in task.cuts])
    if taps:  # compared whole at the taps; behind them stand the dense graph's own nodes
        compared = tuple(comparison for comparison in compared if not comparison.restored)
    batch = _batch(shapes[0][task.cuts[0].at], task.cuts[0], task.tokens)
    seen = ScannedDense(task.dense, shapes[0], batch, task.tokens, task.plan.alignment)
    fronts = tuple(name_of(seen.in_front(find_value(task.dense, cut.at))) for cut in task.cuts)
    streams = fronts if taps or task.plan.alignment in STANDING else ()
    streams = tuple(name for name in streams if name not in feed)
    names = [*(comparison.dense for comparison in compared), *(tap.dense for tap in taps), *streams]
    copy = exposed(task.dense, names)
    leaving = task.cuts[-1].at if task.plan.output is not None and last.is_graph_output() else ""
    masked = MaskedDense(copy, shapes[0], batch, task.tokens, leaving)
    scanned = ScannedDense(copy, shapes[0], batch, task.tokens, task.plan.alignment)
    found = scanned.place([find_value(copy, cut.at) for cut in task.cuts])
    found += masked.place([find_value(copy, cut.at) for cut in task.cuts], [bool(cut.merge) for cut in task.cuts])
    if found == 0 and task.plan.cuts:
        msg = f"no attention over {task.tokens} tokens and no scan was found after block {task.cuts[0].block}"
        raise ValidationError(msg, hint="the cut would change no later block; check the block's number")
    reported = [name for cut in task.cuts for name in cut.names]
    constants = constants_of(task.pruned, reported)
    computed = [name for name in reported if name not in constants]
    computed += [*(comparison.pruned for comparison in compared), *(tap.pruned for tap in taps)]
    graphs = copy, exposed(task.pruned, computed), exposed(task.dense, names)
    first, second, third = (Runner(graph, threads=threads) for graph in graphs)
    return _Proof(task, masked, scanned, (first, second, third), compared, taps, constants, fronts)


@dataclass(frozen=True, slots=True)
class _Proof:
    """Three sessions, what to compare between them, indices that are the same for every sample, and what cuts saw."""

    task: _Task
    masked: MaskedDense
    scanned: ScannedDense
    sessions: tuple[Runner, Runner, Runner]
    compared: tuple[Comparison, ...]
    taps: tuple[Tap, ...]
    constants: Feed
    fronts: tuple[str, ...]

    def check(self, feed: Feed, worst: _Worst) -> None:
        """Run the three graphs on one feed.

        Raises:
            ValidationError: if what is compared does not line up.
        """
        masked_session, pruned_session, dense_session = self.sessions
        pruned = self.constants | pruned_session.run(feed)
        after = self._survivors(pruned)
        if self.task.plan.output is not None:
            _check_told(pruned, after[-1].positions - self.task.plan.prefix_tokens, self.task.plan.prefix_tokens)
        masked = feed | masked_session.run({**feed, **self.masked.feeds(after), **self.scanned.feeds(after)})
        dense = dense_session.run(feed)
        for comparison in self.compared:
            positions, tokens = after[-1].positions, self.masked.tokens
            found = pruned[comparison.pruned]
            if comparison.restored:
                found = take_rows(found, comparison, positions, tokens)
            wanted = take_rows(masked[comparison.dense], comparison, positions, tokens)
            if found.shape != wanted.shape:
                msg = f"`{comparison.pruned}` has shape {found.shape} after the cuts, the reference {wanted.shape}"
                raise ValidationError(msg, hint="compare a value that has one row per token, or no row per token")
            others = positions if self.task.plan.output is None else self._others(positions)
            worst.add(found, wanted, take_rows(dense[comparison.dense], comparison, others, tokens))

        self._check_stand_ins(masked, after)
        self._check_taps(pruned, masked, dense, after, worst)

    def _others(self, positions: Array) -> Array:
        """The next patches in the place of those that left: rows that must differ, or no wrong row would be seen."""
        prefix, patches = self.task.plan.prefix_tokens, self.task.plan.patch_tokens
        return np.where(positions < prefix, positions, prefix + (positions - prefix + 1) % patches)

    def _check_stand_ins(self, masked: Feed, after: Sequence[Survivors]) -> None:
        """Hold who stands in for a dropped token against the streams."""
        batch, tokens = self.masked.batch, self.masked.tokens
        before = [whole(batch, tokens), *after]
        for site, one, other in zip(self.task.cuts, before, after, strict=False):
            if site.standing is not None and self.task.plan.alignment in STANDING:
                check_likeness(stream_rows(masked[site.at], batch, tokens), one, other, self.task.plan.run())

    def _check_taps(self, pruned: Feed, masked: Feed, dense: Feed, after: Sequence[Survivors], worst: _Worst) -> None:
        """Hold every restored stream, all tokens of it, against its mode's formula."""
        shape = self.masked.batch, self.masked.tokens
        for tap in self.taps:
            streams = [stream_rows(masked[name], *shape) for name in self.fronts]
            y, found = stream_rows(masked[tap.dense], *shape), pruned[tap.pruned]
            wanted = expected(tap, streams, y, after, self.task.plan.run(), found)
            worst.add(found, wanted, stream_rows(dense[tap.dense], *shape))

    def _survivors(self, pruned: Feed) -> list[Survivors]:
        batch, tokens, run = self.masked.batch, self.masked.tokens, self.task.plan.run()
        out, current = [], whole(batch, tokens)
        patches, place = self.task.plan.patch_tokens, run.start
        for site, cut in zip(self.task.cuts, every_cut(self.task.plan), strict=True):
            index = _each(pruned, site.index, batch)
            front, _ = sides(patches, place, cut.keep)
            kept = index[:, front : front + len(run)]
            expected = (batch, cut.keep + len(run))
            if index.shape != expected or not (kept == np.arange(place, place + len(run))).all():
                where = "first" if front == 0 else f"from {front} on"
                found = f"shape {index.shape} with {kept[0]} {where}"
                msg = f"index of the cut in block {site.block} has {found}, expected {expected}, prefix tokens {where}"
                raise PassError(msg, hint=BUG)
            patches, place = cut.keep, front
            merge = [_each(pruned, name, batch) for name in site.merge]
            size = None if site.size is None else _each(pruned, site.size, batch)
            before = current
            current = after_cut(before, index, _matrix(index, merge, before), size, tokens)
            if site.scale is not None:
                current = scaled(current, _each(pruned, site.scale, batch))
            standing = _each(pruned, site.standing, batch) if site.standing is not None else None
            current = standing_in(before, current, standing)
            out.append(current)
        return out


def _check_told(pruned: Feed, positions: Array, prefix: int) -> None:
    """Check that the second output names the patches that leave, in their order.

    Raises:
        PassError: if it does not.
    """
    told, left = pruned.get(KEPT_INDICES), positions[:, prefix:]
    if told is None or told.dtype != np.int64 or not np.array_equal(told, left) or (np.diff(left) <= 0).any():
        msg = f"the output `{KEPT_INDICES}` does not name the patches that leave, in their order"
        raise PassError(msg, hint=BUG)


def _matrix(index: Array, merge: Sequence[Array], before: Survivors) -> Array | None:
    if len(merge) < 3:
        return merge[0] if merge else None
    source, own, weights = merge
    return merge_matrix(index, source, own, weights, before.positions.shape[1])


def _each(values: Feed, name: str, batch: int) -> Array:
    """A value for every sample; what does not depend on the sample may come once."""
    value = values[name]
    return value if len(value) == batch else np.repeat(value, batch, axis=0)


def _batch(shape: tuple[int, ...], cut: CutSite, tokens: int) -> int:
    if len(shape) == 3 and tokens in shape[:2]:
        return shape[0] if shape[1] == tokens else shape[1]
    if shape[:1] != (tokens,):
        msg = f"the cut in block {cut.block} stands at `{cut.at}` of shape {list(shape)}, expected [B,{tokens},D]"
        raise ValidationError(msg, hint="cut at the residual stream")
    return 1
