"""The read-out: where tokens leave the last block for a projector, and further for the outputs.

In a vision-language encoder that is the hidden state which the language model is given: of the penultimate layer in
LLaVA (the exporter drops the last one, or canonicalising does), of the last one behind its LayerNorm in SigLIP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.core.flow.call import sole_tokens
from edgeprune.core.flow.engine import run_flow
from edgeprune.core.graph import constant_of, consumers, downstream, name_of, static_shape, upstream
from edgeprune.core.recognition import is_residual, token_dominators
from edgeprune.core.refusals import Refusal, RefusalCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.flow.labels import Label
    from edgeprune.core.recognition import Recognition

KEPT_INDICES = "kept_indices"

_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "Einsum"})


@dataclass(frozen=True, slots=True, eq=False)
class ReadOut:
    """Where tokens leave.

    Attributes:
        value: all tokens, prefix included, [B, T, D] in some order of axes, in front of the projector.
        block: index of the last block that it depends on.
        outputs: graph outputs of one row a token that depend on it.
        users: nodes that read `value` on the way to these outputs.
        projector: products with a weight between `value` and the outputs.
    """

    value: ir.Value
    block: int
    outputs: tuple[ir.Value, ...]
    users: tuple[ir.Node, ...]
    projector: tuple[ir.Node, ...]


def find_readout(model: ir.Model, found: Recognition) -> ReadOut | Refusal:
    """The read-out of a recognised model, or why it has none."""
    stream = found.found
    outputs = [value for value in model.graph.outputs if stream.flow.tokens_on(value)]
    if not outputs:
        return _no_token_output(found)
    if stream.place:
        reason = f"{stream.place} patch tokens stand in front of the class tokens, which would have to come first"
        return Refusal(RefusalCode.NO_READ_OUT, reason, _names(outputs))
    nodes = list(model.graph)
    tree = token_dominators(nodes, stream)
    chain = tree.chain(tree.common(outputs))
    last = max((i for i, value in enumerate(chain) if is_residual(stream.flow, value)), default=None)
    if last is None:
        return Refusal(RefusalCode.NO_READ_OUT, "no residual Add passes all tokens to the outputs", _names(outputs))
    ends = {output.producer() for output in outputs}
    attended = {node for block in found.blocks for node in block.mixers}
    late = [value for value in chain[last:] if not _towards(value, ends)[1] & attended]
    if not late:
        reason = "tokens leave from several blocks; only those that leave behind the last one can be chosen"
        return Refusal(RefusalCode.NO_READ_OUT, reason, _names(outputs))
    if not _is_whole(stream.flow.labels[late[0]], stream.tokens):
        reason = "several layers are joined behind their class tokens, and no value holds all tokens of them"
        return Refusal(RefusalCode.NO_READ_OUT, reason, (name_of(late[0]),))
    value = _last_whole(late, found)
    users, after = _towards(value, ends)
    refusal = _reads_all(nodes, value, after, found)
    if refusal is not None:
        return refusal
    above = upstream(value)
    block = max(b.index for b in found.blocks if any(node in above for node in b.mixers))
    return ReadOut(
        value, block, tuple(outputs), users, tuple(node for node in nodes if node in after and _weighs(node))
    )


def _towards(value: ir.Value, ends: set[ir.Node | None]) -> tuple[tuple[ir.Node, ...], set[ir.Node]]:
    """The users of a value on the way to the outputs' nodes, and all nodes that depend on these users."""
    reached = {node: downstream(node.outputs) | {node} for node in consumers(value)}
    users = tuple(node for node, behind in reached.items() if behind & ends)
    return users, set().union(*(reached[node] for node in users))


def _last_whole(values: Sequence[ir.Value], found: Recognition) -> ir.Value:
    """The last of some values, each dominating the next, that has all tokens and no product with a weight before it."""
    best = values[0]
    behind = downstream([best])
    for value in values[1:]:
        if any(_weighs(node) for node in upstream(value) & behind):
            break
        if _is_whole(found.found.flow.labels[value], found.found.tokens):
            best = value
    return best


def _is_whole(label: Label, tokens: int) -> bool:
    if len(label.token_axes) != 1 or label.pooled:
        return False
    found = sole_tokens(label.axes[label.token_axes[0]])
    return found is not None and found.size == tokens and not any(segment.fresh for segment in found.segments)


def _weighs(node: ir.Node) -> bool:
    """Whether a node multiplies with a weight."""
    return node.op_type in _PRODUCTS and any(constant_of(value) is not None for value in node.inputs)


def _reads_all(nodes: Sequence[ir.Node], value: ir.Value, after: set[ir.Node], found: Recognition) -> Refusal | None:
    """Why all tokens must stay behind the read-out, or None: something is computed from all of them there."""
    stream = found.found
    resize = stream.resize(stream.prefix + 1)
    flow = run_flow([node for node in nodes if node in after], {value: stream.flow.labels[value]}, resize)
    if flow.refusals:
        return _connector(next(iter(flow.refusals.values())))
    pools = flow.pools()
    if pools:
        reason = "an output is a statistic over all tokens that leave, such as a mean or an attention pool"
        return Refusal(RefusalCode.NO_READ_OUT, reason, (name_of(pools[0]),))
    return None


def _no_token_output(found: Recognition) -> Refusal:
    if found.head_refusals:
        return _connector(found.head_refusals[0])
    return Refusal(RefusalCode.NO_READ_OUT, "no output has one row a patch token, as a language model is given them")


_CONNECTORS = {
    RefusalCode.TOKEN_AXIS_SPLIT: "a pixel shuffle or patch merger joins neighbours of the grid",
    RefusalCode.WINDOW_PARTITION: "a pixel shuffle or patch merger joins neighbours of the grid",
    RefusalCode.CONVOLUTION_OVER_TOKENS: "a convolution or pooling over the grid joins neighbours",
    RefusalCode.CONTRACTION_WITH_WEIGHT: "a product over the tokens mixes all of them",
}


def _connector(refusal: Refusal) -> Refusal:
    """A connector between tower and language model that needs the whole grid, by its name."""
    name = _CONNECTORS.get(refusal.code, "the connector behind the last block needs all tokens")
    return Refusal(RefusalCode.GRID_CONNECTOR, f"{name}: {refusal.reason}", refusal.at)


def _names(values: Sequence[ir.Value]) -> tuple[str, ...]:
    return tuple(name_of(value) for value in values if static_shape(value) is not None)
