"""Reduce tokens: make the cuts of a plan, restore where a head needs it, and weigh merged tokens by their size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from edgeprune.core.errors import PlanError
from edgeprune.core.flow.labels import Resize, sides
from edgeprune.core.graph import PREFIX, consumers, static_shape
from edgeprune.core.passes import PassResult
from edgeprune.core.recognition import is_residual, recognize, token_dominators
from edgeprune.core.tape import Tape
from edgeprune_passes._alignment import Aligner, cut_scan
from edgeprune_passes._cut import propagate, relabel, replace_input
from edgeprune_passes._inside import entry_of, last_scan, require_inside
from edgeprune_passes._layout import from_stream, to_stream
from edgeprune_passes._neighbours import Neighbours
from edgeprune_passes._output import State, cut_output, require_readout
from edgeprune_passes._restore import free_users, lower_restore, place_restore
from edgeprune_passes._rows import gather_rows, merged_rows
from edgeprune_passes._sizes import Weighed, attentions, is_plain_pool, means, weigh, weigh_mean
from edgeprune_passes._standing_in import StandIns
from edgeprune_passes.registry import make_strategy
from edgeprune_passes.restores._done import Done
from edgeprune_passes.selection import Site, named, refusal_at
from edgeprune_passes.strategies.keep_all import KeepAll

if TYPE_CHECKING:
    from edgeprune.core.flow.engine import Flow
    from edgeprune.core.flow.labels import Label
    from edgeprune.core.plan import Alignment, OutputCut, Restore, TokenCut
    from edgeprune.core.recognition import Block, Recognition
    from edgeprune.core.source import Stream
    from edgeprune_passes.selection import Selection, Strategy


@dataclass(frozen=True, slots=True)
class ReduceTokens:
    """Make token cuts at the residual Adds of their blocks.

    Rule: the strategy names the tokens that go on; the stream and whatever is aligned with it is gathered (or merged)
    by that index, every literal that named the old length is rewritten on a clone, shapes behind the cut are set anew.

    Attributes:
        cuts: in the order of their blocks.
        restore: how all tokens are brought back before heads and outputs that need them: `auto` or the name of a mode;
            `none` lets per-token outputs get shorter and refuses heads that need all tokens.
        output: reduction of the tokens that leave for the outputs, which then get shorter, with `kept_indices`.
        alignment: what selective scans behind a cut make of what is gone: how their state decays over it (`none`,
            `gap`, `bias`, or `exact`, which cuts in front of the block's scans), or which kept tokens stand in for it,
            in convolutions (`neighbours`) or in scans too (`stand-in`).

    Raises: `PlanError` if a block has no cut point, or a strategy refuses it, or nothing is there to align.
    Source: none; the strategies name theirs.
    """

    name: ClassVar[str] = "reduce-tokens"
    cuts: tuple[TokenCut, ...] = ()
    restore: Restore = "auto"
    output: OutputCut | None = None
    alignment: Alignment = "none"

    def apply(self, model: ir.Model) -> PassResult:
        """Rewrite `model` in place."""
        if not self.cuts and self.output is None:
            return PassResult(model, 0)
        found = recognize(model)
        readout = require_readout(model, found) if self.output is not None else None
        work = _Work(model, found, [make_strategy(cut.strategy) for cut in self.cuts], self.alignment)
        work.shortened = readout.outputs if readout is not None else ()
        nodes = work.place_restores(self.restore)
        if self.alignment in {"stand-in", "neighbours"}:
            kind = StandIns if self.alignment == "stand-in" else Neighbours
            work.stand_ins = kind(model, work.stream.flow, work.stream.batch)
        for cut, strategy in zip(self.cuts, work.strategies, strict=True):
            work.cut(cut, strategy)
        work.aligner.write_all()
        if work.stand_ins is not None:
            work.stand_ins.write()
        if readout is not None and self.output is not None:
            indices = [done.selection.index for done in work.history]
            last = self.cuts[-1].block if self.cuts else -1
            state = State(tokens=work.tokens, size=work.size, indices=indices, last=last)
            cut_output(model, found, readout, self.output, state)
        work.weigh_sizes()
        for node, label in nodes:
            lower_restore(model, node, label, work.history, work.stream.batch, self.restore)
        return PassResult(model, len(self.cuts) + len(nodes) + (self.output is not None))


class _Work:
    """The state of one application: how many tokens are left, which cuts were made."""

    def __init__(self, model: ir.Model, found: Recognition, strategies: list[Strategy], alignment: Alignment) -> None:
        self.model = model
        self.found = found
        self.stream: Stream = found.found
        self.strategies = strategies
        self.aligner = Aligner(model, alignment, [scan for block in found.blocks for scan in block.scans])
        self.stand_ins: StandIns | None = None
        self.positions: ir.Value | None = None  # where the tokens that are left stood in the dense model
        self.tokens = self.stream.tokens
        self.place = self.stream.place
        self.size: ir.Value | None = None
        self.log_size: ir.Value | None = None
        self.history: list[Done] = []
        self.shortened: tuple[ir.Value, ...] = ()  # outputs that fewer tokens leave by, which need no restore
        self._weighed: dict[ir.Node, Weighed] = {}

    def cut(self, cut: TokenCut, strategy: Strategy) -> None:
        """Make one cut.

        Raises:
            PlanError: if the block has no cut point, or the strategy refuses it or so few tokens.
        """
        block, value = self._cut_point(cut, strategy)
        if self.aligner.cuts_inside(block):
            self._cut_inside(cut, strategy, block, value)
            return
        label = relabel(self.stream.flow.labels[value], self.tokens)
        users = list(consumers(value))
        prefix = f"{PREFIX}cut/{cut.block}"
        tape = Tape(self.model, before=self._after(value), prefix=prefix)
        before = to_stream(tape, value, label, self.stream.batch)
        # A merge of nothing is a plain choice of everything.
        chooser = KeepAll() if strategy.merges and cut.keep == self.patches else strategy
        selection = named(chooser.emit(self._site(block, before), cut.keep, tape), prefix)
        kept = gather_rows(tape, before, selection.index, name="kept")
        if selection.merge is not None:
            kept = merged_rows(tape, before, kept, selection.merge)
        new = from_stream(tape, kept, label, self.stream.batch)
        for user in users:
            replace_input(user, value, new)
        self._finish(self._done(before, kept, new, selection), {new: label}, tape)

    def _cut_inside(self, cut: TokenCut, strategy: Strategy, block: Block, value: ir.Value) -> None:
        """Make one cut in front of the scans of a block; gate, skip and residual follow as companions.

        Raises:
            PlanError: if the strategy needs what the scans give, or merges.
        """
        require_inside(strategy, block)
        labels, entry = self.stream.flow.labels, entry_of(block, self.stream.flow)
        prefix = f"{PREFIX}cut/{cut.block}"
        tape = Tape(self.model, before=last_scan(block), prefix=prefix)
        before = to_stream(tape, entry, relabel(labels[entry], self.tokens), self.stream.batch)
        selection = named(strategy.emit(self._site(block, before), cut.keep, tape), prefix)
        self.aligner.write(block.scans)
        for scan in block.scans:
            cut_scan(tape, scan, selection.index, self.tokens)
        self.model.graph.sort()  # the scan in front now reads what is written behind it
        kept = gather_rows(tape, before, selection.index, name="kept")
        seeds = {y: relabel(labels[y], self.tokens) for y in (scan.node.outputs[0] for scan in block.scans)}
        self._finish(self._done(before, kept, value, selection), seeds, tape)

    def _done(self, before: ir.Value, reduced: ir.Value, after: ir.Value, selection: Selection) -> Done:
        kept = (static_shape(selection.index) or (0, 0))[1]
        return Done(
            before=before,
            reduced=reduced,
            after=after,
            selection=selection,
            tokens=self.tokens,
            prefix=self.stream.prefix,
            place=self.place,
            new_place=sides(self.patches, self.place, kept - self.stream.prefix)[0],
        )

    def _cut_point(self, cut: TokenCut, strategy: Strategy) -> tuple[Block, ir.Value]:
        """The block and the value at which a cut is made.

        Raises:
            PlanError: if there is none, or the strategy cannot do what the cut asks.
        """
        block = self.found.block(cut.block)
        if block is None or block.cut is None:
            msg = f"block {cut.block} has no cut point; the model has {len(self.found.blocks)} blocks"
            raise PlanError(msg, hint="`edgeprune inspect` lists the cut points")
        if block.cut.is_graph_output():
            msg = f"the stream `{block.cut.name}` is a graph output"
            raise PlanError(msg, hint="let tokens be restored: --restore auto")
        if block.cut.dtype != ir.DataType.FLOAT:
            msg = f"the stream `{block.cut.name}` is {block.cut.dtype}, expected FLOAT: scores are computed in fp32"
            raise PlanError(msg, hint="export the model in fp32; --precision fp16 types the engine")
        refusal = refusal_at(strategy, block, self.stream)
        if refusal is not None:
            msg = f"the strategy {strategy.name} refuses block {cut.block}: {refusal}"
            raise PlanError(msg, hint="`edgeprune strategies` says when each strategy refuses")
        fewest = strategy.fewest(self.patches, self.stream.prefix)
        if not fewest <= cut.keep <= self.patches:
            msg = f"{strategy.name} keeps {fewest} to {self.patches} patch tokens in block {cut.block}, not {cut.keep}"
            raise PlanError(msg, hint="`edgeprune plan` decides counts that the strategy can keep")
        return block, block.cut

    def _site(self, block: Block, stream: ir.Value) -> Site:
        return Site(
            block=block,
            stream=stream,
            tokens=self.tokens,
            prefix=self.stream.prefix,
            batch=self.stream.batch,
            depth=len(self.found.blocks),
            size=self.size,
            log_size=self.log_size,
            grid=self.stream.grid,
            place=self.place,
            labels=self.stream.flow.labels,
            positions=self.positions if self.stand_ins is not None and self.stand_ins.whole_scans else None,
        )

    @property
    def patches(self) -> int:
        """Patch tokens that are left."""
        return self.tokens - self.stream.prefix

    def _finish(self, done: Done, seeds: dict[ir.Value, Label], tape: Tape) -> None:
        """Let everything behind a cut follow, and remember what was done."""
        selection = done.selection
        after = tape.shape(selection.index)[1]
        resize = Resize(self.tokens, after, self.stream.prefix, done.place, done.new_place)
        flow = propagate(self.model, seeds, resize, selection.index, batch=self.stream.batch, prefix=tape.prefix)
        self.size = selection.size
        self.log_size = None
        if selection.size is not None:
            self.log_size = tape.op("Unsqueeze", tape.op("Log", selection.size), tape.ints([1, 2]), name="log_size")
        for node, logits, axis in attentions(self.model.graph, flow, resize):
            self._weighed[node] = Weighed(self.log_size, logits, axis, resize)
        for node, averaged, axis in means(self.model.graph, flow, resize):
            self._weighed[node] = Weighed(self.log_size, averaged, axis, resize)
        if self.aligner.alignment != "none":
            self._follow_scans(tape, done, flow)
        self.history.append(done)
        self.tokens, self.place = resize.after, resize.new_place

    def _follow_scans(self, tape: Tape, done: Done, flow: Flow) -> None:
        """Remember for the scans behind a cut what is gone in front of them."""
        index, before = done.selection.index, self.positions
        self.positions = index if before is None else tape.op("GatherElements", before, index, axis=1)
        self.aligner.behind(tape, self.positions, flow)
        if self.stand_ins is not None:
            self.stand_ins.behind(tape, done, self.positions, flow)

    def _after(self, value: ir.Value) -> ir.Node | None:
        """The node before which a cut is written: the first that reads the stream behind its producer."""
        producer = value.producer()
        nodes = list(self.model.graph)
        position = nodes.index(producer) + 1 if producer is not None else 0
        return nodes[position] if position < len(nodes) else None

    def weigh_sizes(self) -> None:
        """Let merged tokens count by their size in every attention (ToMe's proportional attention) and every mean."""
        for node, weighed in self._weighed.items():
            write = weigh_mean if node.op_type == "ReduceMean" else weigh
            write(self.model, node, weighed, self.stream.batch)

    def place_restores(self, restore: Restore) -> list[tuple[ir.Node, Label]]:
        """Put Restore nodes where tokens leave the stream and all of them are needed.

        Raises:
            PlanError: if there are such places and nothing may be restored.
        """
        flow = self.stream.flow
        tree = token_dominators(list(self.model.graph), self.stream)
        anchors = [node for block in self.found.blocks for node in block.mixers]
        # The residual of the last block meets its shortened branch, though no attention is behind it.
        joins = [block.cut.producer() for block in self.found.blocks if block.cut is not None]
        anchors += [node for node in joins if node is not None]
        first = self.found.blocks[self.cuts_start()].cut if self.found.blocks else None
        chains = [tree.chain(value) for value in self._exits(restore)]
        cut = [chain for chain in chains if first is None or first in chain]
        if restore == "none" and cut:
            msg = f"the head needs all tokens: {next(iter(flow.refusals.values()))}"
            raise PlanError(msg, hint="let tokens be restored: --restore auto")
        spots = dict.fromkeys(_spot(flow, chain, anchors) for chain in cut)
        placed = []
        for spot in spots:
            node = place_restore(self.model, spot, anchors)
            if node is not None:
                placed.append((node, flow.labels[spot]))
        return placed

    def cuts_start(self) -> int:
        """The first block that could be cut; taps above it never need a restore."""
        return next(i for i, block in enumerate(self.found.blocks) if block.cut is not None)

    def _exits(self, restore: Restore) -> list[ir.Value]:
        """Values whose further use needs every token: refused, or mixed with what is known no more."""
        flow = self.stream.flow
        stopped = [node for node in self.model.graph if any(v in flow.stopped for v in node.outputs)]
        refused = [v for node in stopped for v in node.inputs if v is not None and flow.tokens_on(v)]
        if restore == "none":
            return refused
        outputs = [v for v in self.model.graph.outputs if flow.tokens_on(v) and v not in self.shortened]
        merged = any(strategy.merges for strategy in self.strategies)
        pools = [node for node in flow.pools() if merged and (restore != "auto" or not is_plain_pool(node, flow))]
        pooled = [v for node in pools for v in node.inputs[:1] if v is not None]
        return [*refused, *outputs, *pooled]


def _spot(flow: Flow, chain: list[ir.Value], anchors: list[ir.Node]) -> ir.Value:
    """Where tokens come back for the value at the end of a chain of dominators.

    At the last residual Add, or as near behind it as there is a user that no later block depends on: in a post-norm
    block that is the normalised stream.
    """
    last = max((i for i, value in enumerate(chain) if is_residual(flow, value)), default=len(chain) - 1)
    return next(v for v in chain[last:] if v is chain[-1] or v.is_graph_output() or free_users(v, anchors))
