"""What a graph costs: multiply-accumulates and parameters, and how the former follow the number of tokens.

A selective scan counts two for each token, channel and state: h = a h + b is one multiply-accumulate, y = sum of h C is
another. What makes a and b (an exponential, two products) is elementwise and counts no more than a GELU does; counters
of the field that take it in say 9 FLOPs for the same (VMamba's `flops_selective_scan_fn`, after issue 110 of
state-spaces/mamba). A loop that is no selective scan counts the products of its body for every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of, producers, static_shape
from edgeprune.core.scans import is_selective_scan

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.recognition import Recognition
    from edgeprune.core.source import Stream


def node_macs(node: ir.Node) -> int:
    """Multiply-accumulates of one node at its static shapes; products and convolutions count, elementwise does not."""
    if is_selective_scan(node):
        return _selective_scan_macs(node)
    if node.op_type in {"Scan", "Loop"} and not node.domain:
        return trips(node) * sum(node_macs(inner) for inner in node.attributes["body"].as_graph())
    out = static_shape(node.outputs[0]) if node.outputs else None
    first = static_shape(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
    if out is None or first is None or node.domain:
        return 0
    if node.op_type == "MatMul":
        return prod(out) * first[-1]
    if node.op_type == "Gemm":
        transposed = "transA" in node.attributes and node.attributes["transA"].as_int()
        return prod(out) * first[0 if transposed else 1]
    if node.op_type in {"Conv", "ConvTranspose"}:
        weight = static_shape(node.inputs[1]) if node.inputs[1] is not None else None
        if weight is None:
            return 0
        return prod(out) * prod(weight[1:]) if node.op_type == "Conv" else prod(first) * prod(weight[1:])
    return _einsum_macs(node) if node.op_type == "Einsum" else 0


def _selective_scan_macs(node: ir.Node) -> int:
    """State update and read-out: 2 * B * T * D * n."""
    shapes = [static_shape(value) if value is not None else None for value in (node.inputs[0], node.inputs[2])]
    step, matrix = shapes
    return 2 * prod(step) * matrix[1] if step is not None and matrix is not None else 0


def trips(node: ir.Node) -> int:
    """How often the body of a `Scan` or a `Loop` runs; 1 where the graph does not say."""
    if node.op_type == "Loop":
        count = constant_of(node.inputs[0])
        return 1 if count is None else int(count.reshape(-1)[0])
    inputs = node.attributes["num_scan_inputs"].as_int()
    axes = node.attributes["scan_input_axes"].as_ints() if "scan_input_axes" in node.attributes else [0] * inputs
    first = node.inputs[len(node.inputs) - inputs]
    shape = static_shape(first) if first is not None else None
    return 1 if shape is None else shape[axes[0]]


def _einsum_macs(node: ir.Node) -> int:
    """The product over all letters of two or more operands."""
    terms = node.attributes["equation"].as_string().replace(" ", "").split("->")[0].split(",")
    shapes = [static_shape(value) or () for value in node.inputs if value is not None]
    sizes = {
        letter: dim for term, shape in zip(terms, shapes, strict=True) for letter, dim in zip(term, shape, strict=False)
    }
    return prod(sizes.values()) if len(terms) > 1 else 0


def count_macs(model: ir.Model) -> int:
    """Multiply-accumulates of one run."""
    return sum(node_macs(node) for node in model.graph)


def count_params(model: ir.Model) -> int:
    """Elements of all floating-point initializers that are used; tables that edgeprune writes are among them."""
    used = [value for value in model.graph.initializers.values() if value.uses() or value.is_graph_output()]
    floating = [v for v in used if v.dtype is not None and v.dtype.is_floating_point()]
    return sum(prod(static_shape(value) or ()) for value in floating)


@dataclass(frozen=True, slots=True)
class TokenCost:
    """MACs as a function of the tokens between cut points: fixed + sum over stages of linear * n + square * n^2.

    Attributes:
        fixed: MACs that do not depend on tokens.
        linear: by stage; stage 0 lies before the first cut point, stage i behind the i-th.
        square: by stage.
        blocks: the block whose cut opens each stage but the first.
    """

    fixed: float
    linear: tuple[float, ...]
    square: tuple[float, ...]
    blocks: tuple[int, ...]

    def macs(self, tokens: Sequence[int]) -> float:
        """MACs for T (prefix included) in each stage."""
        return self.fixed + sum(a * n + b * n * n for a, b, n in zip(self.linear, self.square, tokens, strict=True))


def token_cost(model: ir.Model, found: Recognition, *, whole_scans: bool = False) -> TokenCost:
    """Read the cost of tokens off the labels of a recognised model.

    A cut behind a last block of scans is none: nothing follows that would be less.

    Args:
        model: the graph.
        found: what was recognised in it.
        whole_scans: convolutions in front of scans, and all up to the scans, run over the places of all tokens.
    """
    stream = found.found
    ends = found.blocks if found.blocks and found.blocks[-1].attentions else found.blocks[:-1]
    cuts = [(block.index, block.cut) for block in ends if block.cut is not None]
    stage: dict[ir.Node, int] = {}
    opens = {cut.producer(): i + 1 for i, (_, cut) in enumerate(cuts)}
    fixed = 0.0
    linear, square = [0.0] * (len(cuts) + 1), [0.0] * (len(cuts) + 1)
    whole = _scanning(found) if whole_scans else frozenset()
    for node in model.graph:
        before = [stage[p] for v in node.inputs if v is not None and (p := v.producer()) in stage]
        here = max([*before, 0])
        macs = node_macs(node)
        axes = _token_axes(node, stream)
        if axes == 0 or node in whole:
            fixed += macs
        elif axes == 1:
            linear[here] += macs / stream.tokens
        else:
            square[here] += macs / stream.tokens**2
        stage[node] = opens.get(node, here)
    return TokenCost(fixed, tuple(linear), tuple(square), tuple(index for index, _ in cuts))


def _scanning(found: Recognition) -> frozenset[ir.Node]:
    """The scans, and what is between them and the convolutions in front of them."""
    scans = [scan.node for block in found.blocks for scan in block.scans]
    seen, stack = set(scans), list(scans)
    while stack:
        node = stack.pop()
        if node.op_type == "Conv":
            continue
        fresh = {producer for producer in producers(node) if producer not in seen}
        seen |= fresh
        stack += fresh
    return frozenset(seen)


def _token_axes(node: ir.Node, stream: Stream) -> int:
    """How many axes of tokens that may go a product runs over: those of its result, and one that it contracts.

    A scan reads several sequences along one axis of tokens, which it does not contract.
    """
    if is_selective_scan(node):
        return _removable_axes(node.outputs[0], stream)
    inputs = sum(_removable_axes(v, stream) for v in node.inputs if v is not None and constant_of(v) is None)
    outputs = _removable_axes(node.outputs[0], stream) if node.outputs else 0
    contracted = (inputs - outputs) // 2 if inputs > outputs else 0
    return outputs + contracted


def _removable_axes(value: ir.Value, stream: Stream) -> int:
    """Token axes that are not of prefix tokens alone."""
    label = stream.flow.labels.get(value)
    found = [label.tokens_at(i) for i in label.token_axes] if label is not None else []
    return sum(any(not s.fresh and s.stop > stream.prefix for s in tokens.segments) for tokens in found if tokens)
