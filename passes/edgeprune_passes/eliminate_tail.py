"""Eliminate the tail: in the last block compute only the rows that the head reads. Exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from onnx_ir.passes import common

from edgeprune.core.flow.engine import run_flow
from edgeprune.core.graph import PREFIX, consumers, downstream, name_of
from edgeprune.core.passes import PassResult
from edgeprune.core.recognition import is_residual, recognize
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.tape import Tape
from edgeprune_passes._cut import propagate, replace_input
from edgeprune_passes._split_qkv import split_fused_projection

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.flow.labels import Label, Resize
    from edgeprune.core.recognition import Block, Recognition
    from edgeprune.core.source import Stream


@dataclass(frozen=True, slots=True)
class EliminateTail:
    """If the head reads prefix tokens only, the last block needs queries, projection and MLP for those rows alone.

    Keys and values still need all tokens. A fused projection of the last block is split first, so that the queries of
    patch tokens are not computed either.

    Refuses: `not-applicable` without prefix tokens; `patch-tokens-in-output` where patch tokens reach the head.
    Cost: saves 10/12 of the last block's linear MACs and nearly all of its attention; 6.9 % of DeiT.
    Source: none; the same effect is in the schedules of DiffRate, arXiv 2305.17997.
    """

    name: ClassVar[str] = "eliminate-tail"

    def apply(self, model: ir.Model) -> PassResult:
        """Rewrite `model` in place."""
        found = recognize(model)
        if found.stream is None:
            return PassResult(model, 0, found.refusals)
        refusal = _refused(model, found)
        if refusal is not None:
            return PassResult(model, 0, (refusal,))
        block = found.blocks[-1]
        split = split_fused_projection(model, block.attention)
        if split:
            found = recognize(model)
            block = found.blocks[-1]
        _cut_rows(model, found.found, block)
        common.RemoveUnusedNodesPass()(model)  # the fused projection, and what only patch rows went through
        return PassResult(model, 1 + split)


def _refused(model: ir.Model, found: Recognition) -> Refusal | None:
    stream, block = found.found, found.blocks[-1]
    if stream.prefix == 0:
        return Refusal(RefusalCode.NOT_APPLICABLE, "the model has no prefix tokens that a head could read alone")
    if not block.attentions:
        return Refusal(RefusalCode.NOT_APPLICABLE, "the last block has no attention with rows to leave out")
    if block.cut is None or block.attention.query is None or len(block.attentions) > 1:
        return Refusal(RefusalCode.NOT_APPLICABLE, "the last block has no residual Add behind its attention")
    seeds = _edges(stream, block)
    if seeds is None:
        return Refusal(
            RefusalCode.NOT_APPLICABLE,
            "the residual path around the last attention was not found",
            (name_of(block.attention.softmax),),
        )
    labels = {value: stream.flow.labels[value] for value, _ in seeds}
    resize = stream.resize(stream.prefix)
    flow = run_flow(_behind(model, seeds), labels, resize)
    if flow.refusals or any(_reads_patches(label, resize) for label in flow.labels.values()):
        return Refusal(RefusalCode.PATCHES_IN_OUTPUT, "the head reads patch tokens", _heads(found))
    if any(v in flow.labels and flow.tokens_on(v) for v in model.graph.outputs):
        return Refusal(RefusalCode.PATCHES_IN_OUTPUT, "a graph output holds patch tokens", _heads(found))
    return None


def _reads_patches(label: Label, resize: Resize) -> bool:
    """Whether a value needs patch rows: it pools tokens, weighs them (an attention pool), or holds nothing else."""
    weighed = [tokens for i in label.token_axes if (tokens := label.tokens_at(i)) is not None and tokens.softmaxed]
    removable = not all(resize.stays(segment) for tokens in weighed for segment in tokens.segments)
    return label.pooled or removable or 0 in resize.shape(label)


def _heads(found: Recognition) -> tuple[str, ...]:
    cut = found.blocks[-1].cut
    return (name_of(cut),) if cut is not None else ()


def _edges(stream: Stream, block: Block) -> list[tuple[ir.Value, ir.Node]] | None:
    """The two edges at which rows can be dropped: queries into their product, the skip path into the residual Add."""
    assert block.cut is not None
    add, attention = block.cut.producer(), block.attention
    assert add is not None
    assert attention.query is not None
    assert attention.product is not None
    inside = downstream([attention.probs])
    skips = [v for v in add.inputs if v is not None and v.producer() not in inside and stream.flow.tokens_on(v)]
    if len(skips) != 1:
        return None
    return [(attention.query, attention.product), (skips[0], add)]


def _behind(model: ir.Model, seeds: list[tuple[ir.Value, ir.Node]]) -> list[ir.Node]:
    """The nodes that see the shortened rows, in order: not the other users of the same values."""
    entry = {node for _, node in seeds}
    reached = entry | downstream([v for node in entry for v in node.outputs])
    return [node for node in model.graph if node in reached]


def _cut_rows(model: ir.Model, stream: Stream, block: Block) -> None:
    """Slice the rows off at both edges, the queries as far up as they are nobody else's, and follow."""
    seeds = _edges(stream, block)
    assert seeds is not None
    stop = stream.place + stream.prefix
    index = np.tile(np.arange(stream.place, stop, dtype=np.int64), (stream.batch, 1))
    short: dict[ir.Value, Label] = {}
    first = None
    for value, user in seeds:
        value, user = _highest(stream, value, user)  # noqa: PLW2901 - the same edge, further up
        label = stream.flow.labels[value]
        tape = Tape(model, before=user, prefix=f"{PREFIX}tail/{block.index}")
        first = first or tape.constant(index, name="index")
        rows = tape.slice(value, label.token_axes[0], stream.place, stop, name="rows")
        replace_input(user, value, rows)
        short[rows] = label
    assert first is not None
    resize = stream.resize(stream.prefix)
    propagate(model, short, resize, first, batch=stream.batch, prefix=f"{PREFIX}tail/{block.index}")


def _highest(stream: Stream, value: ir.Value, user: ir.Node) -> tuple[ir.Value, ir.Node]:
    """Walk up while the value serves this path alone and is made of one token value, row by row."""
    while True:
        node = value.producer()
        shared = len(list(consumers(value))) != 1 or value.is_graph_output()
        if node is None or shared or is_residual(stream.flow, value):
            return value, user
        carriers = [v for v in node.inputs if v is not None and stream.flow.tokens_on(v)]
        if len(carriers) != 1 or len(node.outputs) != 1 or len(stream.flow.tokens_on(carriers[0])) != 1:
            return value, user
        value, user = carriers[0], node
