"""How much attention a patch token receives, in side branches: the block's own attention stays as it is, and fused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.errors import PlanError
from edgeprune.core.refusals import Refusal
from edgeprune_passes._layout import reshape
from edgeprune_passes.scores import attributes_of, class_row, patches_of, refuse_class_row, refuse_probabilities

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site

SCORES = ("auto", "class-row", "column-mean", "global-queries")


def check_score(name: str) -> None:
    """Check the name of a score.

    Raises:
        PlanError: naming those there are.
    """
    if name not in SCORES:
        msg = f"no score is named `{name}`: `score`"
        raise PlanError(msg, hint=f"the scores are {', '.join(SCORES)}")


def refuse_received(block: Block, prefix: int, score: str) -> Refusal | None:
    """Why a score cannot be computed beside a block, or None."""
    by_row = refuse_class_row(block, prefix)
    if score == "class-row" or by_row is None:
        return by_row if score == "class-row" else None
    return refuse_probabilities(block)


def received(site: Site, tape: Tape, score: str, threshold: float) -> ir.Value:
    """A number a patch token, fp32 [B, N].

    class-row       mean over heads of softmax(q_cls K^T)[i]
    column-mean     m_i = mean over heads and queries q of A[h, q, i]
    global-queries  the same mean over those queries q alone for which m_q > threshold * mean(m)
    auto            class-row where there is a class token, column-mean where there is none

    Source: class rows EViT (arXiv 2202.07800); columns SpAtten (arXiv 2012.09852); global queries VFlowOpt (ICCV 2025),
    without its entropy of pixels.
    """
    if score == "class-row" or (score == "auto" and refuse_class_row(site.block, site.prefix) is None):
        return class_row(site, tape)
    probs_BTT = _head_mean(site, tape)
    columns = tape.reduce("ReduceMean", probs_BTT, 1)
    if score == "global-queries":
        columns = _of_global_queries(tape, probs_BTT, columns, threshold)
    return patches_of(site, tape, columns, 1)


def _of_global_queries(tape: Tape, probs_BTT: ir.Value, columns: ir.Value, threshold: float) -> ir.Value:
    """Column means over the queries that receive most themselves; over all where none does."""
    mean = tape.reduce("ReduceMean", columns, 1, keepdims=True)
    chosen = tape.op("Cast", tape.op("Greater", columns, tape.op("Mul", mean, tape.scalar(threshold))), to=1)
    count = tape.reduce("ReduceSum", chosen, 1, keepdims=True)
    weights = tape.op("Where", tape.op("Greater", count, tape.scalar(0.5)), chosen, tape.scalar(1.0))
    total = tape.op("MatMul", tape.op("Unsqueeze", weights, tape.ints([1])), probs_BTT)
    share = tape.op("Squeeze", total, tape.ints([1]))
    return tape.op("Div", share, tape.reduce("ReduceSum", weights, 1, keepdims=True), name="of_global")


def _head_mean(site: Site, tape: Tape) -> ir.Value:
    """The block's attention once more, fp32 [B, T, T], averaged over heads: H * T^2 * Dh MACs."""
    attention = site.block.attention
    scores = tape.op("MatMul", attention.query, attention.key, name="again")
    inner = attention.scores
    for node in attention.between:
        operands = [scores if v is inner else v for v in node.inputs]
        scores = tape.op(node.op_type, *operands, **attributes_of(node))
        inner = node.outputs[0]
    heads = tape.shape(scores)[:-2]
    count = 1
    for size in heads:
        count *= size
    scores = reshape(tape, scores, [site.batch, count // site.batch, site.tokens, site.tokens])
    if site.log_size is not None:
        scores = tape.op("Add", scores, site.log_size)
    return tape.reduce("ReduceMean", tape.op("Softmax", scores, axis=-1, name="probs"), 1)
