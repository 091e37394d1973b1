"""Take tokens along: the stream, and everything that is aligned with it."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.flow.labels import Batch, factor_size
from edgeprune.core.graph import static_shape
from edgeprune.core.tape import Tape
from edgeprune_passes._layout import reshape, transpose

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.flow.call import Companion
    from edgeprune.core.flow.labels import Resize, Segment, Tokens

_FAR = 1 << 31  # further than any axis is long


class Taker:
    """Gathers companions with the index of one cut; equal requests are written once.

    Args:
        model: the graph.
        index: int64 [B, K'] of the cut.
        resize: the change of length.
        batch: B.
        prefix: first part of the names.
    """

    def __init__(self, model: ir.Model, index: ir.Value, resize: Resize, batch: int, prefix: str) -> None:
        self._model = model
        self._index = index
        self._resize = resize
        self._batch = batch
        self._prefix = prefix
        self._indices: dict[Tokens, ir.Value] = {}
        self._taken: dict[tuple[ir.Value, int, Tokens, int | None, int], ir.Value] = {}

    def companion(self, node: ir.Node, request: Companion) -> None:
        """Replace one input of a node by its gathered self."""
        value = node.inputs[request.index]
        assert value is not None
        rank = max(len(static_shape(v) or ()) for v in (*node.outputs, *node.inputs) if v is not None)
        tokens = replace(request.tokens, softmaxed=False)
        key = (value, request.axis, tokens, request.batch_axis, rank)
        if key not in self._taken:
            tape = Tape(self._model, before=node, prefix=f"{self._prefix}/companion")
            index = self._index_of(tape, tokens)
            if self._batch == 1:
                axis = request.axis + len(tape.shape(value))
                self._taken[key] = tape.op("Gather", value, index, axis=axis)
            else:
                self._taken[key] = self._per_sample(tape, value, request, index, rank)
        node.replace_input_with(request.index, self._taken[key])

    def _per_sample(self, tape: Tape, value: ir.Value, request: Companion, index: ir.Value, rank: int) -> ir.Value:
        """Gather with another index for each sample; the result has the batch where the node's output has it."""
        assert request.batch_axis is not None, "a batch larger than one has an axis here"
        own = len(tape.shape(value))
        if own < rank:
            value = tape.op("Unsqueeze", value, tape.ints(list(range(rank - own))))
        first, axis = rank + request.batch_axis, rank + request.axis
        sizes = [factor_size(factor) for factor in request.batch]
        shape = tape.shape(value)
        apart = sizes if shape[first] > 1 else [1] * len(sizes)
        value = reshape(tape, value, [*shape[:first], *apart, *shape[first + 1 :]])
        home = first + next(i for i, factor in enumerate(request.batch) if isinstance(factor, Batch))
        taken = _gather(tape, value, home, axis + (len(sizes) - 1 if axis > first else 0), index)
        wide = [*tape.shape(taken)[:first], *sizes, *tape.shape(taken)[first + len(sizes) :]]
        if list(tape.shape(taken)) != wide:
            taken = tape.op("Expand", taken, tape.ints(wide))
        return reshape(tape, taken, [*wide[:first], prod(sizes), *wide[first + len(sizes) :]])

    def _index_of(self, tape: Tape, tokens: Tokens) -> ir.Value:
        """The cut's index in the coordinates of an axis of tokens: [B, k], or [k] for a batch of one."""
        if tokens not in self._indices:
            index = self._build_index(tape, tokens.segments)
            self._indices[tokens] = self._flipped(tape, index, tokens.size) if tokens.flipped else index
        return self._indices[tokens]

    def _flipped(self, tape: Tape, index: ir.Value, size: int) -> ir.Value:
        """Where the same tokens stand on an axis that runs from the last to the first, in its order."""
        axis = tape.ints([1 if self._batch > 1 else 0])
        backwards = tape.op("Slice", index, tape.ints([-1]), tape.ints([-_FAR]), axis, tape.ints([-1]))
        return tape.op("Sub", tape.ints([size - 1]), backwards)

    def _build_index(self, tape: Tape, segments: tuple[Segment, ...]) -> ir.Value:
        axis = 1 if self._batch > 1 else 0
        base = self._index
        if self._batch == 1:
            base = tape.op("Squeeze", base, tape.ints([0]), name="index")
        parts, at = [], 0
        for segment in segments:
            parts.append(self._part(tape, base, segment, at, axis))
            at += segment.size
        return parts[0] if len(parts) == 1 else tape.op("Concat", *parts, axis=axis)

    def _part(self, tape: Tape, base: ir.Value, segment: Segment, at: int, axis: int) -> ir.Value:
        size = self._resize.segment(segment)
        if segment.fresh:
            own = np.arange(at, at + size, dtype=np.int64)
            return tape.constant(own if self._batch == 1 else np.tile(own, (self._batch, 1)))
        start = self._resize.position(segment.start)
        whole = start == 0 and size == self._resize.after
        part = (
            base if whole else tape.op("Slice", base, tape.ints([start]), tape.ints([start + size]), tape.ints([axis]))
        )
        return part if segment.start == at else tape.op("Add", part, tape.ints([at - segment.start]))


def _gather(tape: Tape, value: ir.Value, batch: int, axis: int, index: ir.Value) -> ir.Value:
    """Take [B, k] positions of one axis, other ones for each sample; a batch axis of one is shared by all."""
    rank = len(tape.shape(value))
    order = [batch, axis, *[i for i in range(rank) if i not in {batch, axis}]]
    front = transpose(tape, value, order)
    if tape.shape(front)[0] == 1:
        single = tape.op("Squeeze", front, tape.ints([0]))
        taken = tape.op("Gather", single, index, axis=0)
    else:
        taken = tape.op("GatherND", front, tape.op("Unsqueeze", index, tape.ints([-1])), batch_dims=1)
    return transpose(tape, taken, [order.index(i) for i in range(rank)])
