"""Find the transformer in a graph: its tokens, its attentions, its blocks, and where tokens may be cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeprune.core.attention import Attention, find_attention
from edgeprune.core.dominators import Dominators
from edgeprune.core.errors import ModelError
from edgeprune.core.flow.call import sole_tokens
from edgeprune.core.flow.engine import Flow, run_flow
from edgeprune.core.flow.labels import Resize
from edgeprune.core.graph import block_numbers, captured, consumers, downstream, name_of
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.scan_view import find_scan
from edgeprune.core.scans import Scan, is_selective_scan, selective_scans
from edgeprune.core.source import Stream, candidates, settle

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.flow.labels import Label, Segment

_AFTER_SOFTMAX = "Add Cast Div Dropout IsNaN Mul Reshape Squeeze Transpose Unsqueeze Where".split()


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One block: attention, or a selective scan.

    Attributes:
        index: 0-based, in execution order.
        attentions: usually one; several where they stand in parallel; none in a block of scans.
        cut: the residual Add after the attention, [B, T, D] in some order of axes, through which all later blocks see
            the tokens; None where there is no such value.
        scans: one, or two where a backward branch runs beside the forward one.
    """

    index: int
    attentions: tuple[Attention, ...]
    cut: ir.Value | None
    scans: tuple[Scan, ...] = ()

    @property
    def attention(self) -> Attention:
        """The block's first attention; a block of scans alone has none."""
        return self.attentions[0]

    @property
    def mixers(self) -> tuple[ir.Node, ...]:
        """The nodes in which tokens see each other: softmaxes and scans."""
        return (*(attention.softmax for attention in self.attentions), *(scan.node for scan in self.scans))

    @property
    def entry(self) -> ir.Value:
        """The first value of the block in which tokens saw each other: dominators of the block dominate it."""
        return self.attentions[0].scores if self.attentions else self.scans[0].node.outputs[0]


@dataclass(frozen=True, slots=True, eq=False)
class Recognition:
    """What was found in a graph, and what was declined.

    Attributes:
        stream: the token sequence; None if there is none that could be cut.
        blocks: in execution order.
        refusals: why the model, or a part of it, is declined.
        head_refusals: where tokens stop behind the last block: such a head needs all tokens back.
    """

    stream: Stream | None
    blocks: tuple[Block, ...]
    refusals: tuple[Refusal, ...]
    head_refusals: tuple[Refusal, ...] = ()

    def block(self, index: int) -> Block | None:
        """The block of an index; blocks that lost their attention are not there, and the others keep their indices."""
        return next((block for block in self.blocks if block.index == index), None)

    @property
    def found(self) -> Stream:
        """The stream.

        Raises:
            ModelError: if the model was refused.
        """
        if self.stream is None:
            first = self.refusals[0]
            msg = f"no tokens can be cut in this model: {first}"
            raise ModelError(msg, hint="`edgeprune inspect` shows what was recognised and what was refused")
        return self.stream


def recognize(model: ir.Model) -> Recognition:
    """Recognise a model in canonical form."""
    nodes = list(model.graph)
    scans = bool(selective_scans(nodes))
    if not scans and not any(is_attention_softmax(node) for node in nodes):
        reason = "the graph has neither softmax attention nor a selective scan"
        return Recognition(None, (), (Refusal(RefusalCode.NO_ATTENTION, reason),))
    declined: list[Refusal] = []
    for guess in candidates(nodes, model.graph.inputs):
        flow = run_flow(nodes, {guess.value: guess.label}, Resize(0, 0, 0, open=scans))
        segments = _first_mixed(nodes, flow)
        if segments is None:
            declined += flow.refusals.values()
            continue
        stream = settle(nodes, guess, flow, segments)
        if stream is None:
            reason = "fresh tokens stand behind or between the patch tokens"
            return Recognition(None, (), (Refusal(RefusalCode.POSITION_BOUND, reason, (name_of(guess.value),)),))
        return _describe(nodes, stream)
    mixer = "neither attention nor a scan" if scans else "no attention"
    reason = f"{mixer} runs over the whole of any token sequence that starts at an input"
    return Recognition(None, (), tuple(declined[:1]) or (Refusal(RefusalCode.NO_SOURCE, reason),))


def _first_mixed(nodes: Sequence[ir.Node], flow: Flow) -> tuple[Segment, ...] | None:
    """The tokens of the first softmax whose queries and keys are the same whole sequence, or of the first scan."""
    return next((segments for node in nodes if (segments := _mixed(flow, node)) is not None), None)


def _mixed(flow: Flow, node: ir.Node) -> tuple[Segment, ...] | None:
    """The tokens that a node lets see each other; None where it is neither attention nor a scan."""
    label = flow.labels.get(node.outputs[0]) if node.outputs else None
    if label is not None and is_selective_scan(node):
        scanned = sole_tokens(label.axes[1])
        return scanned.segments if scanned is not None else None
    if node.op_type != "Softmax" or label is None or len(label.axes) < 2:
        return None
    queries, keys = sole_tokens(label.axes[-2]), sole_tokens(label.axes[-1])
    if queries is None or keys is None or not keys.softmaxed or not queries.same_tokens(keys):
        return None
    return keys.segments


def _describe(nodes: Sequence[ir.Node], stream: Stream) -> Recognition:
    whole = {seg for label in stream.seeds.values() for i in label.token_axes for seg in label.tokens_at(i).segments}  # type: ignore[union-attr]
    anchors = [n for n in nodes if set(_mixed(stream.flow, n) or ()) == whole]
    beyond = _refused_before_mixer(stream.flow)
    if beyond:
        return Recognition(None, (), beyond)
    mixers = [_mixer(stream.flow, node) for node in anchors]
    blocks = _blocks(nodes, stream, mixers)
    if not any(block.cut for block in blocks):
        reason = "no residual Add passes all tokens from one block to the next"
        return Recognition(None, blocks, (Refusal(RefusalCode.NO_CUT_POINT, reason, (name_of(anchors[0]),)),))
    return Recognition(stream, blocks, (), tuple(stream.flow.refusals.values()))


def _refused_before_mixer(flow: Flow) -> tuple[Refusal, ...]:
    """Refusals that further attention or a scan depends on: behind them the tokens are not known any more."""
    return tuple(
        refusal
        for node, refusal in flow.refusals.items()
        if _mixes(node) or any(captured(node)) or any(map(_mixes, downstream(node.outputs)))
    )


def _mixes(node: ir.Node) -> bool:
    return is_attention_softmax(node) or is_selective_scan(node)


def _mixer(flow: Flow, node: ir.Node) -> Attention | Scan:
    return find_scan(flow, node) if is_selective_scan(node) else find_attention(flow, node)


def is_attention_softmax(node: ir.Node) -> bool:
    """Whether a softmax weighs something: its result reaches a product through casts, masks and layout."""
    if node.op_type != "Softmax":
        return False
    stack, seen = [node], {node}
    while stack:
        for user in consumers(stack.pop().outputs[0]):
            if user.op_type in {"MatMul", "Einsum"}:
                return True
            if user.op_type in _AFTER_SOFTMAX and user not in seen:
                seen.add(user)
                stack.append(user)
    return False


def _blocks(nodes: Sequence[ir.Node], stream: Stream, mixers: Sequence[Attention | Scan]) -> tuple[Block, ...]:
    tree = token_dominators(nodes, stream)
    blocks: list[Block] = []
    group: list[Attention | Scan] = []
    numbers = block_numbers(nodes)
    for i, mixer in enumerate(mixers):
        group.append(mixer)
        after = downstream(_block(group[-1:]).mixers[0].outputs)
        if i + 1 < len(mixers):
            goal = tree.chain(_block(mixers[i + 1 : i + 2]).entry)
            if not any(v.producer() in after and is_residual(stream.flow, v) for v in goal):
                continue
        else:
            goal = tree.chain(tree.common(_exits(stream, after)))
        cut = next((v for v in goal if v.producer() in after and is_residual(stream.flow, v)), None)
        blocks.append(replace(_block(group), index=next(numbers), cut=cut))
        group = []
    return tuple(blocks)


def _block(group: Sequence[Attention | Scan]) -> Block:
    attentions = tuple(mixer for mixer in group if isinstance(mixer, Attention))
    return Block(0, attentions, None, tuple(mixer for mixer in group if isinstance(mixer, Scan)))


def is_residual(flow: Flow, value: ir.Value) -> bool:
    """Whether a value is a sum of two token streams, and a stream itself, from first to last."""
    node = value.producer()
    if node is None or node.op_type not in {"Add", "Sum"}:
        return False
    axes = flow.tokens_on(node.outputs[0])
    streams = sum(bool(flow.tokens_on(v)) for v in node.inputs if v is not None)
    return streams > 1 and len(axes) == 1 and not _is_flipped(flow.labels[node.outputs[0]], axes[0])


def _is_flipped(label: Label, axis: int) -> bool:
    tokens = label.tokens_at(axis)
    return tokens is not None and tokens.flipped


def token_dominators(nodes: Sequence[ir.Node], stream: Stream) -> Dominators[ir.Value]:
    """Dominators among the values that carry tokens."""
    flow = stream.flow
    before: dict[ir.Value, list[ir.Value]] = {value: [] for value in stream.seeds}
    for node in nodes:
        inputs = [v for v in node.inputs if v is not None and flow.tokens_on(v)]
        for value in node.outputs:
            if value not in before and flow.tokens_on(value):
                before[value] = inputs
    return Dominators(before)


def _exits(stream: Stream, after: set[ir.Node]) -> list[ir.Value]:
    """Values behind the last attention through which tokens leave: pooled, picked, refused, or a graph output."""
    flow = stream.flow
    out: list[ir.Value] = []
    for value in flow.labels:
        if not flow.tokens_on(value) or value.producer() not in after:
            continue
        leaves = any(not any(flow.tokens_on(o) for o in node.outputs) for node in consumers(value))
        if leaves or value.is_graph_output():
            out.append(value)
    return out
