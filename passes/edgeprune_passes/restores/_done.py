"""What a mode of restoring is handed, and the words in which modes are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import numpy as np

from edgeprune_passes._rows import gather_rows, row_of
from edgeprune_passes.scores import unit, without_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir

    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Selection


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Done:
    """One cut that was made.

    Attributes:
        before: fp32 [B, T, D], the stream in front of the cut.
        reduced: fp32 [B, K', D], the stream behind it.
        after: the same in the order of axes that the graph has.
        selection: what was chosen.
        tokens: T.
        prefix: prefix tokens, in both.
        place: where they stand in front of the cut.
        new_place: where they stand behind it.
    """

    before: ir.Value
    reduced: ir.Value
    after: ir.Value
    selection: Selection
    tokens: int
    prefix: int
    place: int = 0
    new_place: int = 0

    @property
    def run(self) -> range:
        """The prefix tokens in front of the cut."""
        return range(self.place, self.place + self.prefix)

    @property
    def new_run(self) -> range:
        """The prefix tokens behind the cut."""
        return range(self.new_place, self.new_place + self.prefix)


@runtime_checkable
class RestoreMode(Protocol):
    """A way to bring tokens back."""

    name: ClassVar[str]
    source: ClassVar[str]

    def refuses(self, cuts: Sequence[Done]) -> str | None:
        """Why this mode cannot undo some cuts, or None."""
        ...

    def bring_back(self, tape: Tape, stream: ir.Value, cuts: Sequence[Done]) -> ir.Value:
        """Undo `cuts` in reverse order: [B, K', D] behind the last becomes [B, T, D] in front of the first."""
        ...


def one_by_one(
    tape: Tape, stream: ir.Value, cuts: Sequence[Done], undo: Callable[[Tape, ir.Value, Done], ir.Value]
) -> ir.Value:
    """Undo cuts in reverse order, each by itself."""
    for done in reversed(cuts):
        stream = undo(tape, stream, done)
    return stream


def position(tape: Tape, index: ir.Value, tokens: int) -> tuple[ir.Value, ir.Value]:
    """Where each of `tokens` stands in `index` [B, K], int64 [B, T], and whether it stands there, bool [B, T]."""
    everyone = tape.constant(np.arange(tokens, dtype=np.int64).reshape(1, 1, -1))
    equal = tape.op("Equal", tape.op("Unsqueeze", index, tape.ints([-1])), everyone)
    member = tape.op("Cast", equal, to=1)
    where = tape.op("ArgMax", member, axis=1, keepdims=0)
    return where, tape.op("Greater", tape.reduce("ReduceMax", member, 1), tape.scalar(0.0))


def assignment(tape: Tape, done: Done) -> ir.Value:
    """For each old token the new one that holds it, int64 [B, T]."""
    index, merge = done.selection.index, done.selection.merge
    batch, kept = tape.shape(index)
    where = tape.constant(np.tile(np.arange(kept, dtype=np.int64), (batch, 1)))
    if merge is not None:
        where = tape.op("Concat", where, row_of(tape, index, merge.into), axis=1)
        index = tape.op("Concat", index, merge.source, axis=1)
    # Kept and merged tokens together are all: sorting them by their places inverts the order that they stand in.
    every = tape.ints([done.tokens])
    order = tape.ops("TopK", index, every, outputs=2, axis=-1, largest=0, sorted=1, name="order")[1]
    return tape.op("GatherElements", where, order, axis=1)


def kept_patches(tape: Tape, done: Done) -> ir.Value:
    """Positions of the kept ones among the patch tokens, int64 [B, K]."""
    index = done.selection.index
    if done.place:
        return _patches_around(tape, index, done)
    patches = tape.slice(index, 1, done.prefix, tape.shape(index)[1])
    return patches if done.prefix == 0 else tape.op("Sub", patches, tape.ints([done.prefix]))


def _patches_around(tape: Tape, index: ir.Value, done: Done) -> ir.Value:
    parts = [tape.slice(index, 1, 0, done.new_place)] if done.new_place else []
    if done.new_run.stop < tape.shape(index)[1]:
        behind = tape.slice(index, 1, done.new_run.stop, tape.shape(index)[1])
        parts.append(tape.op("Sub", behind, tape.ints([done.prefix])))
    return parts[0] if len(parts) == 1 else tape.op("Concat", *parts, axis=1)


def patch_rows(tape: Tape, stream: ir.Value, done: Done) -> ir.Value:
    """The rows of patch tokens of a stream in front of the cut or behind it."""
    run = done.run if tape.shape(stream)[1] == done.tokens else done.new_run
    return without_run(tape, stream, 1, run)


def below_prefix(tape: Tape, stream: ir.Value, patches: ir.Value, done: Done) -> ir.Value:
    """Restored patch tokens with the prefix tokens of the stream, which every cut keeps, in front or among them."""
    if done.prefix == 0:
        return patches
    if done.place:
        kept = tape.slice(stream, 1, done.new_place, done.new_run.stop)
        parts = [tape.slice(patches, 1, 0, done.place), kept]
        if done.place < tape.shape(patches)[1]:
            parts.append(tape.slice(patches, 1, done.place, tape.shape(patches)[1]))
        return tape.op("Concat", *parts, axis=1)
    return tape.op("Concat", tape.slice(stream, 1, 0, done.prefix), patches, axis=1)


def likeness(tape: Tape, done: Done) -> ir.Value:
    """Cosine of each patch token with each kept one, both as the cut saw them: [B, N, K]."""
    every = unit(tape, patch_rows(tape, done.before, done))
    kept = gather_rows(tape, every, kept_patches(tape, done))
    return tape.op("MatMul", every, tape.op("Transpose", kept, perm=[0, 2, 1]))


# Of the mean distance between a token's best match and its others. The best of 0.05, 0.1, 0.2 and 0.3 on 20 photographs
# for eight strategies; an absolute temperature fits one depth only, since tokens grow apart from block to block.
_SHARPNESS = 0.05
_LEAST = 1e-6


def soft_weights(tape: Tape, alike: ir.Value) -> ir.Value:
    """softmax((s - max s) / (0.05 * mean(max s - s))) over the last axis of [B, N, K]; the mean is over N and K."""
    short = tape.op("Sub", alike, tape.reduce("ReduceMax", alike, 2, keepdims=True))
    spread = tape.op("Neg", tape.reduce("ReduceMean", short, (1, 2), keepdims=True))
    scale = tape.op("Max", tape.op("Mul", spread, tape.scalar(_SHARPNESS)), tape.scalar(_LEAST))
    return tape.op("Softmax", tape.op("Div", short, scale), axis=-1)


def own_or_alike(tape: Tape, done: Done) -> ir.Value:
    """Weights [B, N, K]: a kept token is itself, any other a soft mean of kept ones that were like it at the cut."""
    index = kept_patches(tape, done)
    everyone = tape.constant(np.arange(done.tokens - done.prefix, dtype=np.int64).reshape(1, -1, 1))
    own = tape.op("Cast", tape.op("Equal", everyone, tape.op("Unsqueeze", index, tape.ints([1]))), to=1)
    held = tape.op("Greater", tape.reduce("ReduceMax", own, 2, keepdims=True), tape.scalar(0.0))
    return tape.op("Where", held, own, soft_weights(tape, likeness(tape, done)))
