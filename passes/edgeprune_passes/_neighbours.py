"""True neighbours: behind a cut the convolution in front of a scan still meets the tokens that stood there.

A causal convolution over a short sequence mixes tokens that were never neighbours. So kept tokens stand in for those
that are gone, as with `stand-in`, but for the convolution alone: it runs over all places of the dense sequence, and of
what it gives the kept places go on. The projections of the step and the scan run over kept tokens.

Source: our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeprune.core.graph import consumers, name_of
from edgeprune.core.tape import Tape
from edgeprune_passes._alignment import reversed_order
from edgeprune_passes._cut import replace_input
from edgeprune_passes._standing_in import NAME, StandIns, input_of, is_flipped, taken

if TYPE_CHECKING:
    from edgeprune.core.flow.engine import Flow
    from edgeprune.core.flow.labels import Label
    from edgeprune_passes.restores._done import Done


class Neighbours(StandIns):
    """The convolutions that tokens stand in for, of one application; arguments are those of `StandIns`."""

    whole_scans = False

    def __init__(self, model: ir.Model, flow: Flow, batch: int) -> None:
        self._places: dict[ir.Node, ir.Value] = {}
        super().__init__(model, flow, batch)

    def _place(self, convolution: ir.Node, flow: Flow) -> None:
        """Nothing stands in front of a convolution until all cuts are made: it follows them as it is."""
        self._labels[convolution] = flow.labels[input_of(convolution)]

    def behind(self, tape: Tape, done: Done, positions: ir.Value, flow: Flow) -> None:
        """Remember who stands where behind a cut, and where the kept ones stood."""
        super().behind(tape, done, positions, flow)
        self._places |= {node: positions for node in self._where if flow.tokens_on(input_of(node))}

    def write(self) -> None:
        """Let every convolution behind a cut run over all places, and take the kept ones of what it gives."""
        for node, label in self._labels.items():
            if node in self._places:
                self._widen(node, label)

    def _widen(self, node: ir.Node, label: Label) -> None:
        value, result, axis = input_of(node), node.outputs[0], label.token_axes[0]
        users = list(consumers(result))
        tape = Tape(self._model, before=node, prefix=f"{NAME}/{name_of(node)}")
        standing, places = self._where[node], self._places[node]
        if is_flipped(label):
            kept, every = tape.shape(value)[axis], tape.shape(standing)[1]
            standing = tape.op("Sub", tape.ints([kept - 1]), reversed_order(tape, standing))
            places = tape.op("Sub", tape.ints([every - 1]), reversed_order(tape, places))
        full = taken(tape, value, label, standing, self._batch)
        node.replace_input_with(0, full)
        short, result.shape = result.shape, full.shape
        nodes = list(self._model.graph)
        after = Tape(self._model, before=nodes[nodes.index(node) + 1], prefix=tape.prefix)
        new = taken(after, result, label, places, self._batch)
        assert new.shape == short, f"{node.name} gives as many tokens as it takes"
        for user in users:
            replace_input(user, result, new)
