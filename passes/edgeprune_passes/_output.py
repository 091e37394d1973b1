"""Reduce the tokens that leave: choose them behind the last block, before the projector, and say which they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeprune.core.errors import PlanError
from edgeprune.core.flow.labels import Resize
from edgeprune.core.graph import PREFIX, static_shape
from edgeprune.core.readout import KEPT_INDICES, ReadOut, find_readout
from edgeprune.core.tape import Tape, fresh_name
from edgeprune_passes._cut import propagate, relabel, replace_input
from edgeprune_passes._layout import from_stream, to_stream
from edgeprune_passes._rows import gather_rows, merged_rows
from edgeprune_passes.registry import make_strategy
from edgeprune_passes.selection import Site, named
from edgeprune_passes.strategies.keep_all import KeepAll

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune.core.plan import OutputCut
    from edgeprune.core.recognition import Recognition
    from edgeprune_passes.selection import Strategy

OUTPUT = f"{PREFIX}output"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class State:
    """What the cuts inside the tower left.

    Attributes:
        tokens: T now.
        size: fp32 [B, T] sizes from merges, or None.
        indices: int64 [B, K'] of each cut, in coordinates of the stream before it, in their order.
        last: block of the last cut; -1 where there is none.
    """

    tokens: int
    size: ir.Value | None
    indices: Sequence[ir.Value]
    last: int = -1


def require_readout(model: ir.Model, found: Recognition) -> ReadOut:
    """The read-out of a model whose outputs are to get shorter.

    Raises:
        PlanError: if it has none, or an output has the name of ours.
    """
    readout = find_readout(model, found)
    if not isinstance(readout, ReadOut):
        msg = f"the tokens that leave cannot be chosen: {readout}"
        raise PlanError(msg, hint="cut inside the encoder with --keep, which leaves its outputs as they are")
    if any(value.name == KEPT_INDICES for value in (*model.graph.outputs, *model.graph.inputs)):
        msg = f"the model has a `{KEPT_INDICES}` already, expected that name to be free for the second output"
        raise PlanError(msg, hint="export the model with other names")
    return readout


def cut_output(model: ir.Model, found: Recognition, readout: ReadOut, cut: OutputCut, state: State) -> None:
    """Make one cut in front of the projector, and a further output of what was kept.

    Raises:
        PlanError: if the strategy refuses it or so few tokens, or all tokens were brought back there.
    """
    stream, value = found.found, readout.value
    strategy = make_strategy(cut.strategy)
    _check(readout, found, strategy, cut, state)
    label = relabel(stream.flow.labels[value], state.tokens)
    entry = min(readout.users, key=list(model.graph).index, default=None)
    tape = Tape(model, before=entry, prefix=OUTPUT)
    before = to_stream(tape, value, label, stream.batch)
    patches = state.tokens - stream.prefix
    chooser = KeepAll() if strategy.merges and cut.keep == patches else strategy
    block = found.block(readout.block)
    assert block is not None
    site = Site(
        block=block,
        stream=before,
        tokens=state.tokens,
        prefix=stream.prefix,
        batch=stream.batch,
        depth=len(found.blocks),
        size=state.size,
        grid=stream.grid,
    )
    selection = named(chooser.emit(site, cut.keep, tape), OUTPUT)
    kept = gather_rows(tape, before, selection.index, name="kept")
    if selection.merge is not None:
        kept = merged_rows(tape, before, kept, selection.merge)
    new = from_stream(tape, kept, label, stream.batch)
    for user in readout.users:
        replace_input(user, value, new)
    if value.is_graph_output():
        _take_over(model, value, new)
    _tell(model, tape, [*state.indices, selection.index], stream.prefix)
    resize = Resize(state.tokens, stream.prefix + cut.keep, stream.prefix)
    propagate(model, {new: label}, resize, selection.index, batch=stream.batch, prefix=OUTPUT)


def _take_over(model: ir.Model, value: ir.Value, new: ir.Value) -> None:
    """Let the shorter stream be the graph output that the whole one was, by its name."""
    for i, output in enumerate(model.graph.outputs):
        if output is value:
            model.graph.outputs[i] = new
    value.name, new.name = fresh_name(model, f"{value.name}/whole"), value.name


def _check(readout: ReadOut, found: Recognition, strategy: Strategy, cut: OutputCut, state: State) -> None:
    stream, patches = found.found, state.tokens - found.found.prefix
    if state.last == readout.block:
        msg = f"block {readout.block} has a cut, and its attention is what tokens that leave behind it are chosen by"
        raise PlanError(msg, hint="cut in earlier blocks, or let all tokens that are left leave")
    wanted = relabel(stream.flow.labels[readout.value], state.tokens).shape
    if static_shape(readout.value) != wanted:
        msg = f"a head needs all tokens at `{readout.value.name}`, where fewer were to leave"
        raise PlanError(msg, hint="reduce the output alone, or the blocks alone")
    if readout.value.dtype != ir.DataType.FLOAT:
        msg = f"the read-out `{readout.value.name}` is {readout.value.dtype}, expected FLOAT"
        raise PlanError(msg, hint="export the model in fp32; --precision fp16 types the engine")
    block = found.block(readout.block)
    assert block is not None
    refusal = strategy.refuses(block, stream.prefix)
    if refusal is not None:
        msg = f"the strategy {strategy.name} refuses the read-out behind block {readout.block}: {refusal}"
        raise PlanError(msg, hint="`edgeprune strategies` says when each strategy refuses")
    fewest = strategy.fewest(patches, stream.prefix)
    if not fewest <= cut.keep <= patches:
        msg = f"{strategy.name} lets {fewest} to {patches} patch tokens leave, not {cut.keep}"
        raise PlanError(msg, hint="ask for another number of output tokens")


def _tell(model: ir.Model, tape: Tape, indices: Sequence[ir.Value], prefix: int) -> None:
    """A graph output of the patches that are left, int64 [B, K], in coordinates of the dense grid."""
    place = indices[0]
    for index in indices[1:]:
        place = tape.op("GatherElements", place, index, axis=1)
    patches = tape.slice(place, 1, prefix, tape.shape(place)[1])
    told = tape.op("Sub", patches, tape.ints([prefix]), name="told") if prefix else tape.op("Identity", patches)
    told.name = KEPT_INDICES
    model.graph.outputs.append(told)
