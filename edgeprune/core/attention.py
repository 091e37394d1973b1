"""One view of attention over its many spellings: found by data flow, from the softmax outward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of, consumers, static_shape

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from edgeprune.core.flow.engine import Flow

_SMALLEST_TRIANGLE = 2


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """An attention whose queries and keys are the same tokens.

    Attributes:
        softmax: the node.
        scores: the product of queries and keys, before scale and mask; None where it is no plain product.
        product: the node that computes `scores`.
        query: [..., T, Dh] operand of the product.
        key: [..., Dh, T] operand of the product.
        value: [..., T, Dv] operand that the probabilities weigh; None where it was not found.
        between: nodes from the product to the softmax, in order: scale, mask, bias, casts.
    """

    softmax: ir.Node
    scores: ir.Value
    product: ir.Node | None
    query: ir.Value | None
    key: ir.Value | None
    value: ir.Value | None
    between: tuple[ir.Node, ...]

    @property
    def probs(self) -> ir.Value:
        """Softmax output, [..., T, T]."""
        return self.softmax.outputs[0]

    @property
    def heads(self) -> int:
        """Heads (times batch, where an export merges the two)."""
        shape = static_shape(self.probs) or (1,)
        return shape[-3] if len(shape) > 2 else 1

    @property
    def head_size(self) -> int:
        """Width of one head's queries."""
        shape = static_shape(self.query) if self.query is not None else None
        return shape[-1] if shape else 0

    @property
    def spelling(self) -> str:
        """The operators between the product and the softmax, for people."""
        inner = [node.op_type for node in self.between]
        return " ".join([self.product.op_type if self.product else "?", *inner, "Softmax"])


def find_attention(flow: Flow, softmax: ir.Node) -> Attention:
    """The attention around a softmax over tokens."""
    scores = softmax.inputs[0]
    assert scores is not None
    chain: list[ir.Node] = []
    node = scores.producer()
    while node is not None and not _multiplies(flow, node):
        chain.append(node)
        square = [v for v in node.inputs if v is not None and len(flow.tokens_on(v)) > 1]
        if not square:
            return Attention(softmax, scores, None, None, None, _weighed(flow, softmax), tuple(chain[::-1]))
        scores = square[0]
        node = scores.producer()
    if node is None:
        return Attention(softmax, scores, None, None, None, _weighed(flow, softmax), tuple(chain[::-1]))
    query, key = node.inputs[0], node.inputs[1]
    return Attention(softmax, node.outputs[0], node, query, key, _weighed(flow, softmax), tuple(chain[::-1]))


def _multiplies(flow: Flow, node: ir.Node) -> bool:
    """Whether a node makes tokens x tokens out of two operands that carry tokens once."""
    carried = [len(flow.tokens_on(v)) for v in node.inputs if v is not None]
    return node.op_type == "MatMul" and carried == [1, 1]


def _weighed(flow: Flow, softmax: ir.Node) -> ir.Value | None:
    """The operand that the probabilities are multiplied with."""
    stack = [softmax.outputs[0]]
    while stack:
        value = stack.pop()
        for node in consumers(value):
            if node.op_type == "MatMul" and node.inputs[0] is value and len(flow.tokens_on(node.outputs[0])) == 1:
                return node.inputs[1]
            stack.extend(v for v in node.outputs if len(flow.tokens_on(v)) > 1)
    return None


def is_causal(attention: Attention) -> bool:
    """Whether a constant triangle masks the scores: the first token sees itself alone, the last one all."""
    inner = {attention.scores, *(value for node in attention.between for value in node.outputs)}
    stack = [v for node in attention.between for v in node.inputs if v is not None and v not in inner]
    square = (static_shape(attention.probs) or ())[-2:]
    seen: set[ir.Value] = set()
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is not None and node.op_type != "MatMul":  # a score of its own, not a mask
            stack.extend(v for v in node.inputs if v is not None)
        elif node is None and (static_shape(value) or ())[-2:] == square and _is_triangle(constant_of(value)):
            return True
    return False


def _is_triangle(mask: np.ndarray | None) -> bool:
    if mask is None or mask.shape[-1] < _SMALLEST_TRIANGLE:
        return False
    first, last = mask[..., 0, :], mask[..., -1, :]
    seen, hidden = first[..., :1], first[..., 1:2]
    return bool((first[..., 1:] == hidden).all() and (last == seen).all() and (seen != hidden).all())
