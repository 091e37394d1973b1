"""Numbers per token, and choices made from them: the words in which strategies are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.core.attention import is_causal
from edgeprune.core.flow import rules, rules_math
from edgeprune.core.graph import name_of
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune_passes._layout import reshape, to_heads
from edgeprune_passes._lengths import lengths
from edgeprune_passes.selection import Merge, Selection

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site

_EPSILON = 1e-12


def refuse_class_row(block: Block, prefix: int) -> Refusal | None:
    """Why the class token's attention cannot be computed beside a block, or None."""
    if prefix == 0:
        return Refusal(RefusalCode.NO_CLASS_TOKEN, "the model has no class token")
    unattended = refuse_unattended(block)
    if unattended is not None:
        return unattended
    if block.attention.query is not None and is_causal(block.attention):
        return Refusal(RefusalCode.NO_CLASS_TOKEN, "attention is causal, so the first token sees no other")
    return refuse_probabilities(block)


def refuse_probabilities(block: Block) -> Refusal | None:
    """Why rows of the attention cannot be computed again beside a block, or None."""
    unattended = refuse_unattended(block)
    if unattended is not None:
        return unattended
    if block.attention.query is None:
        return Refusal(RefusalCode.NOT_APPLICABLE, "queries and keys were not found in this spelling of attention")
    for node in block.attention.between:
        if rules.RULES.get(node.op_type) not in {rules_math.elementwise, rules_math.unary}:
            reason = f"{node.op_type} between the scores and the softmax mixes rows"
            return Refusal(RefusalCode.NOT_APPLICABLE, reason, (str(node.name),))
    return None


def refuse_keys(block: Block) -> Refusal | None:
    """Why the keys cannot be read, or None."""
    unattended = refuse_unattended(block)
    if unattended is not None:
        return unattended
    if block.attention.key is None:
        return Refusal(RefusalCode.NOT_APPLICABLE, "the keys were not found in this spelling of attention")
    return None


def refuse_unattended(block: Block) -> Refusal | None:
    """Why nothing can be read from the attention of a block of scans, or None."""
    if block.attentions:
        return None
    return Refusal(RefusalCode.NOT_APPLICABLE, "the block has no attention", tuple(map(name_of, block.mixers)))


def class_row(site: Site, tape: Tape) -> ir.Value:
    """Attention of the class token to the patch tokens, averaged over heads: fp32 [B, N].

    A side branch, softmax(q_cls K^T): the probabilities of the block are not read, so that its attention stays fused.

    Source: EViT (arXiv 2202.07800), section 3; the branch is our own.
    """
    attention = site.block.attention
    assert attention.query is not None
    rank = len(tape.shape(attention.query))
    query = tape.slice(attention.query, rank - 2, 0, 1, name="class_query")
    row = tape.op("MatMul", query, attention.key)
    inner = attention.scores
    for node in attention.between:
        operands = [row if v is inner else _first_row(tape, v, site.tokens) for v in node.inputs]
        row = tape.op(node.op_type, *operands, **attributes_of(node))
        inner = node.outputs[0]
    row = reshape(tape, row, [site.batch, _heads(tape, row, site.batch), 1, site.tokens])
    if site.log_size is not None:
        row = tape.op("Add", row, site.log_size)
    probs = tape.op("Softmax", row, axis=-1)
    return patches_of(site, tape, tape.reduce("ReduceMean", probs, (1, 2)), 1)


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """Attributes of a node, to write it again elsewhere."""
    return dict(node.attributes)


def _heads(tape: Tape, row: ir.Value, batch: int) -> int:
    return int(np.prod(tape.shape(row)[:-2])) // batch


def _first_row(tape: Tape, value: ir.Value | None, tokens: int) -> ir.Value | None:
    """The class token's row of a mask or bias that is aligned with the scores."""
    if value is None or len(tape.shape(value)) < 2 or tape.shape(value)[-2] != tokens:
        return value
    return tape.slice(value, len(tape.shape(value)) - 2, 0, 1)


def probabilities(site: Site, tape: Tape) -> ir.Value:
    """All attention probabilities of the block, fp32 [B, H, T, T]. Reading them breaks the fusion of its attention."""
    return to_heads(tape, site.block.attention.probs, site.batch)


def keys(site: Site, tape: Tape) -> ir.Value:
    """Keys averaged over heads, fp32 [B, T, Dh]."""
    key = site.block.attention.key
    assert key is not None
    return tape.reduce("ReduceMean", to_heads(tape, key, site.batch, transposed=True), 1)


def patches_of(site: Site, tape: Tape, value: ir.Value, axis: int) -> ir.Value:
    """The part of a value that belongs to patch tokens."""
    return without_run(tape, value, axis, range(site.place, site.place + site.prefix), name="patches")


def without_run(tape: Tape, value: ir.Value, axis: int, run: range, *, name: str = "Slice") -> ir.Value:
    """A value without the rows of a run of prefix tokens."""
    size = tape.shape(value)[axis]
    if run.start == 0:
        return tape.slice(value, axis, run.stop, size, name=name)
    front = tape.slice(value, axis, 0, run.start, name=name)
    if run.stop == size:
        return front
    behind = tape.slice(value, axis, run.stop, size, name=name)
    return tape.op("Concat", front, behind, axis=axis, name="patches")


def unit(tape: Tape, value: ir.Value) -> ir.Value:
    """Rows of length one."""
    return tape.op("Div", value, tape.op("Max", lengths(tape, value), tape.scalar(_EPSILON)))


def similarity(tape: Tape, left: ir.Value, right: ir.Value) -> ir.Value:
    """Cosine of each row of [B, L, D] with each of [B, R, D]: [B, L, R]."""
    return tape.op("MatMul", unit(tape, left), tape.op("Transpose", unit(tape, right), perm=[0, 2, 1]))


def ranked(tape: Tape, scores: ir.Value, count: int) -> ir.Value:
    """Positions of the `count` highest scores, highest first: int64 [B, count]."""
    return tape.ops("TopK", scores, tape.ints([count]), outputs=2, axis=-1, largest=1, sorted=1, name="rank")[1]


def ascending(tape: Tape, index: ir.Value) -> ir.Value:
    """The same positions in ascending order. TopK returns them by score; tokens keep their order."""
    count = tape.shape(index)[-1]
    return tape.ops("TopK", index, tape.ints([count]), outputs=2, axis=-1, largest=0, sorted=1, name="order")[0]


def with_prefix(site: Site, tape: Tape, patches: ir.Value) -> ir.Value:
    """Positions among the patch tokens [B, K], ascending, as positions in the stream with prefix tokens: [B, P + K].

    Of the K as many stand in front of the prefix tokens as `Site.sides` says.
    """
    if site.prefix == 0:
        return tape.op("Identity", patches, name="index")
    if site.place:
        return _around(site, tape, patches)
    moved = tape.op("Add", patches, tape.ints([site.prefix]))
    first = np.tile(np.arange(site.prefix, dtype=np.int64), (site.batch, 1))
    return tape.op("Concat", tape.constant(first), moved, axis=1, name="index")


def _around(site: Site, tape: Tape, patches: ir.Value) -> ir.Value:
    """The prefix tokens between the patch tokens in front of them and those behind."""
    kept = tape.shape(patches)[1]
    front, _ = site.sides(kept)
    run = np.arange(site.place, site.place + site.prefix, dtype=np.int64)
    parts = [tape.constant(np.tile(run, (site.batch, 1)))]
    if front:
        parts.insert(0, tape.slice(patches, 1, 0, front))
    if front < kept:
        parts.append(tape.op("Add", tape.slice(patches, 1, front, kept), tape.ints([site.prefix])))
    return tape.op("Concat", *parts, axis=1, name="index")


def keep_top(site: Site, scores: ir.Value, keep: int, tape: Tape) -> Selection:
    """Keep the patch tokens with the highest scores [B, N], in their order, on either side of the prefix tokens."""
    front, behind = site.sides(keep)
    if front and behind:
        left = ascending(tape, ranked(tape, tape.slice(scores, 1, 0, site.place), front))
        right = ascending(tape, ranked(tape, tape.slice(scores, 1, site.place, site.patches), behind))
        best = tape.op("Concat", left, tape.op("Add", right, tape.ints([site.place])), axis=1)
    else:
        best = ascending(tape, ranked(tape, scores, keep))
    index = with_prefix(site, tape, best)
    return Selection(index, size=kept_sizes(site, tape, index))


def kept_sizes(site: Site, tape: Tape, index: ir.Value) -> ir.Value | None:
    """Sizes of kept tokens after a plain choice; None while nothing was merged."""
    return None if site.size is None else tape.op("GatherElements", site.size, index, axis=1, name="size")


def sizes_of(site: Site, tape: Tape, index: ir.Value) -> ir.Value:
    """Sizes of some tokens [B, K], ones while nothing was merged."""
    if site.size is not None:
        return tape.op("GatherElements", site.size, index, axis=1)
    return tape.constant(np.ones(tape.shape(index), np.float32))


def merge_into(
    site: Site,
    tape: Tape,
    index: ir.Value,
    pairs: tuple[ir.Value, ir.Value],
    *,
    scale: ir.Value | None = None,
    importance: ir.Value | None = None,
) -> tuple[Merge, ir.Value]:
    """Average tokens into kept ones, weighted by how many original tokens each stands for.

    Args:
        site: the cut.
        tape: where to write.
        index: int64 [B, K'], kept.
        pairs: int64 [B, R] each: the tokens that are merged away, and the kept token that each goes into.
        scale: fp32 [B, R], multiplies the sizes of the sources.
        importance: fp32 [B, T], weighs the average in place of the sizes.

    Returns:
        The merge, and the new sizes [B, K'].
    """
    source, into = pairs
    same = tape.op("Equal", tape.op("Unsqueeze", index, tape.ints([-1])), tape.op("Unsqueeze", into, tape.ints([1])))
    member = tape.op("Cast", same, to=1)
    given = sizes_of(site, tape, source)
    if scale is not None:
        given = tape.op("Mul", given, scale)
    own, shares, total = _added(tape, member, sizes_of(site, tape, index), given)
    size = tape.op("Squeeze", total, tape.ints([-1]), name="size")
    if importance is not None:
        kept_weight = tape.op("GatherElements", importance, index, axis=1)
        own, shares, total = _added(tape, member, kept_weight, tape.op("GatherElements", importance, source, axis=1))
    merge = Merge(
        source=source,
        into=into,
        own=tape.op("Div", own, total, name="own"),
        weights=tape.op("Div", shares, total, name="weights"),
    )
    return merge, size


def _added(tape: Tape, member: ir.Value, own: ir.Value, given: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Own number [B, K', 1], those of the sources in their rows [B, K', R], and their sum [B, K', 1]."""
    own = tape.op("Unsqueeze", own, tape.ints([-1]))
    shares = tape.op("Mul", member, tape.op("Unsqueeze", given, tape.ints([1])))
    return own, shares, tape.op("Add", own, tape.reduce("ReduceSum", shares, 2, keepdims=True))
