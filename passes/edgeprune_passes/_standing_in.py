"""Stand-ins: behind a cut, convolution and scan of a block still run over all places of the dense sequence.

What leaves a short sequence wrong for a scan is less the decay than the convolution in front of it, which meets false
neighbours, and the input of the removed tokens, which is missing. So in front of each causal convolution behind a cut a
kept token stands at the place of every token that is gone: the one that it was merged into or, where it was dropped,
the kept patch token that was most like it at the cut. Convolution, projections of the step, and scan then run as in the
dense model; the norm, both large projections and the gate run over kept tokens alone.

Behind the scan its result is aligned with the gate, and the kept places are taken of it as of any companion.

Source: our own; merging with a way back is ToMe for diffusion's (arXiv 2303.17604, section 4.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.errors import PlanError
from edgeprune.core.flow.rules_scan import serves_scan
from edgeprune.core.graph import PREFIX
from edgeprune.core.tape import Tape, fresh_name
from edgeprune_passes._cut import relabel, replace_input
from edgeprune_passes._layout import from_stream, to_stream
from edgeprune_passes._rows import gather_rows
from edgeprune_passes.restores._done import assignment, kept_patches, likeness, position

if TYPE_CHECKING:
    from edgeprune.core.flow.engine import Flow
    from edgeprune.core.flow.labels import Label
    from edgeprune_passes.restores._done import Done

NAME = f"{PREFIX}stand-in"


class StandIns:
    """The places where tokens stand in, of one application.

    Args:
        model: the graph.
        flow: of the dense model.
        batch: B.

    Raises:
        PlanError: if a scan has no causal convolution in front of it.
    """

    whole_scans = True

    def __init__(self, model: ir.Model, flow: Flow, batch: int) -> None:
        self._model, self._batch = model, batch
        self._labels: dict[ir.Node, Label] = {}
        self._standing: ir.Value | None = None
        self._where: dict[ir.Node, ir.Value] = {}
        convolutions = [node for node in model.graph if node.op_type == "Conv" and _is_causal(node, flow)]
        if not convolutions:
            msg = "no causal convolution stands in front of the scans, so that no token can stand in for another"
            raise PlanError(msg, hint="give --alignment gap")
        for node in convolutions:
            self._place(node, flow)

    def _place(self, convolution: ir.Node, flow: Flow) -> None:
        """Put a marker in front of a convolution, or of the flip in front of it: both directions share one then."""
        user, value = convolution, convolution.inputs[0]
        assert value is not None
        while is_flipped(flow.labels[value]):
            user = value.producer()  # type: ignore[assignment]  # tokens are flipped by a node
            value = user.inputs[0]
            assert value is not None
        there = (node for node in self._labels if input_of(node) is value)
        marker = next(there, None) or self._marker(value, flow.labels[value])
        replace_input(user, value, marker.outputs[0])

    def _marker(self, value: ir.Value, label: Label) -> ir.Node:
        full = ir.Value(name=fresh_name(self._model, f"{NAME}/{value.name}"), shape=value.shape, type=value.type)
        node = ir.node("Restore", [value], domain="edgeprune", outputs=[full])
        node.name = full.name
        producer = value.producer()
        assert producer is not None
        self._model.graph.insert_after(producer, node)
        self._labels[node] = label
        return node

    def behind(self, tape: Tape, done: Done, positions: ir.Value, flow: Flow) -> None:
        """Remember who stands where behind a cut.

        Args:
            tape: of the cut.
            done: the cut.
            positions: int64 [B, K'], where the kept tokens stood in the dense model.
            flow: from the cut on.
        """
        del positions  # tokens come back at their places by who stands there
        if tape.shape(done.selection.index)[1] == done.tokens:
            return
        standing = _stand_ins(tape, done)
        if self._standing is not None:
            standing = tape.op("GatherElements", standing, self._standing, axis=1)
        standing.name = f"{tape.prefix}/standing"
        self._standing = standing
        self._where |= dict.fromkeys((node for node in self._labels if flow.tokens_on(input_of(node))), standing)

    def write(self) -> None:
        """Replace every marker by the rows that stand in, or by nothing where no cut is in front."""
        for node, label in self._labels.items():
            value = full = input_of(node)
            if node in self._where:
                tape = Tape(self._model, before=node, prefix=str(node.name))
                full = taken(tape, value, label, self._where[node], self._batch)
            ir.convenience.replace_all_uses_with(node.outputs[0], full)
            self._model.graph.remove(node, safe=True)


def taken(tape: Tape, value: ir.Value, label: Label, index: ir.Value, batch: int) -> ir.Value:
    """The tokens of a value by an index [B, n], in the order of axes that it has."""
    axis = label.token_axes[0]
    if batch == 1:
        return tape.op("Gather", value, tape.op("Squeeze", index, tape.ints([0])), axis=axis)
    stream = to_stream(tape, value, relabel(label, tape.shape(value)[axis]), batch)
    return from_stream(tape, gather_rows(tape, stream, index), label, batch)


def input_of(node: ir.Node) -> ir.Value:
    """What a node reads first."""
    value = node.inputs[0]
    assert value is not None
    return value


def _is_causal(node: ir.Node, flow: Flow) -> bool:
    """Whether tokens run through a convolution, into a scan."""
    return bool(flow.tokens_on(node.outputs[0])) and bool(flow.tokens_on(input_of(node))) and serves_scan(node)


def is_flipped(label: Label) -> bool:
    """Whether the tokens of a value run from the last to the first."""
    tokens = label.tokens_at(label.token_axes[0])
    return tokens is not None and tokens.flipped


def _stand_ins(tape: Tape, done: Done) -> ir.Value:
    """For each token in front of a cut the one behind it that stands in for it, int64 [B, T]."""
    if done.selection.covers:
        return assignment(tape, done)
    where, held = position(tape, kept_patches(tape, done), done.tokens - done.prefix)
    alike = tape.op("ArgMax", likeness(tape, done), axis=2, keepdims=0)
    patches = tape.op("Where", held, where, alike)
    if done.prefix == 0:
        return patches
    behind = tape.op("Cast", tape.op("Less", patches, tape.ints([done.new_place])), to=7)
    moved = tape.op("Mul", tape.op("Sub", tape.ints([1]), behind), tape.ints([done.prefix]))
    tokens = tape.op("Add", patches, moved)
    run = tape.constant(np.tile(np.array(done.new_run, np.int64), (tape.shape(tokens)[0], 1)))
    parts = [tape.slice(tokens, 1, 0, done.place)] if done.place else []
    after = done.tokens - done.prefix
    rest = [tape.slice(tokens, 1, done.place, after)] if done.place < after else []
    return tape.op("Concat", *parts, run, *rest, axis=1)
