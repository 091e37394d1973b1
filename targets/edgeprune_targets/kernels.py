"""The kernels that a fusing compiler makes of a graph, roughly: what the latency model adds up.

One kernel for each matrix product, one for a whole attention, one for each group of element-wise and norm nodes that
no matrix product separates. Views (Reshape, Transpose ...) are free.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal, TypeAlias

from edgeprune.core.errors import TargetError
from edgeprune.core.graph import producers
from edgeprune_targets.attentions import core_of, is_attention
from edgeprune_targets.blocks import blocks_of

if TYPE_CHECKING:
    import onnx_ir as ir

Kind: TypeAlias = Literal["gemm", "attention", "select", "pointwise"]

_FREE = frozenset(
    {"Constant", "Shape", "Size", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Transpose"}
)
_HEAVY = frozenset({"MatMul", "Gemm", "Conv", "Einsum", "ConvTranspose", "Attention", "MultiHeadAttention", "TopK"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One launch.

    Attributes:
        kind: what limits it and how.
        node: name of the node that it is known by.
        block: transformer block that it belongs to; -1 before the first. The norm before a block's projections counts
            with the block before, since it is fused with that block's last residual Add.
        batch, m, n, k: of the matrix product, per batch entry.
        flops: 2 x multiply-accumulates.
        weight_bytes: of initializers.
        activation_bytes: read and written besides.
    """

    kind: Kind
    node: str
    block: int
    batch: int = 1
    m: int = 0
    n: int = 0
    k: int = 0
    flops: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0


def kernels_of(model: ir.Model, precision: str) -> tuple[Kernel, ...]:
    """Group the nodes of a static-shape graph into kernels, in the order of the graph.

    Args:
        model: all shapes known; inferred here on a copy where they are missing.
        precision: 'fp16' counts fp32 floats as two bytes, as the typed graph will hold them.

    Raises:
        TargetError: if the shape of a value is unknown.
    """
    nodes = tuple(_with_shapes(model).graph)
    groups = _groups(nodes)
    blocks = blocks_of(nodes)
    out = []
    for members in groups:
        heavy = [node for node in members if node.op_type in _HEAVY]
        head = next((node for node in members if is_attention(node)), (heavy or members)[0])
        out.append(_kernel(head, members, blocks[head], precision))
    return tuple(out)


def _with_shapes(model: ir.Model) -> ir.Model:
    if all(value.shape is not None for node in model.graph for value in node.outputs if value.name):
        return model
    from onnx_ir.passes import common

    copy = model.clone()
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy)
    return copy


def _groups(nodes: tuple[ir.Node, ...]) -> list[list[ir.Node]]:
    """Members of each kernel. Element-wise nodes join if the same number of heavy kernels lies before them."""
    core = {member: anchor for anchor in nodes if is_attention(anchor) for member in core_of(anchor)}
    levels: dict[ir.Node, int] = {}
    parent: dict[ir.Node, ir.Node] = {}

    def find(node: ir.Node) -> ir.Node:
        while parent[node] is not node:
            node = parent[node]
        return node

    for node in nodes:
        before = [producer for producer in producers(node) if producer in levels]
        heavy = node in core or node.op_type in _HEAVY
        levels[node] = max(
            (levels[producer] + (producer in core or producer.op_type in _HEAVY) for producer in before), default=0
        )
        parent[node] = core.get(node, node)
        parent.setdefault(parent[node], parent[node])
        if heavy:
            continue
        for producer in before:
            if producer not in core and producer.op_type not in _HEAVY and levels[producer] == levels[node]:
                parent[find(producer)] = find(node)
    groups: dict[ir.Node, list[ir.Node]] = defaultdict(list)
    for node in nodes:
        groups[find(node)].append(node)
    return [members for members in groups.values() if any(node.op_type not in _FREE for node in members)]


def _kernel(head: ir.Node, members: list[ir.Node], block: int, precision: str) -> Kernel:
    weights, activations = _traffic(members, precision)
    name = head.name or head.op_type
    if is_attention(head):
        batch, m, n, k = _attention_shape(head, members)
        kind: Kind = "attention"
        flops = 4 * batch * m * n * k
    elif head.op_type in _HEAVY and head.op_type != "TopK":
        batch, m, n, k = _product_shape(head)
        kind, flops = "gemm", 2 * batch * m * n * k
    else:
        batch, m, n, k, flops = 1, 0, 0, 0, 0
        kind = "select" if head.op_type == "TopK" else "pointwise"
    return Kernel(
        kind=kind, node=name, block=block, batch=batch, m=m, n=n, k=k, flops=flops,
        weight_bytes=weights, activation_bytes=activations,
    )  # fmt: skip


def _traffic(members: list[ir.Node], precision: str) -> tuple[int, int]:
    inside = {value for node in members for value in node.outputs}
    moved = dict.fromkeys(
        value for node in members for value in node.inputs if value is not None and value not in inside
    )
    crew = set(members)
    for value in (value for node in members for value in node.outputs):
        if value.is_graph_output() or any(use.node not in crew for use in value.uses()):
            moved[value] = None
    sizes = [(value.const_value is not None, _bytes(value, precision)) for value in moved]
    return sum(size for constant, size in sizes if constant), sum(size for constant, size in sizes if not constant)


def _bytes(value: ir.Value, precision: str) -> int:
    size = prod(dims(value))
    if value.dtype is None:
        return 4 * size
    wide = value.dtype.name == "FLOAT" and precision == "fp16"
    return 2 * size if wide else int(size * value.dtype.itemsize)


def dims(value: ir.Value) -> tuple[int, ...]:
    """Static shape of a value.

    Raises:
        TargetError: if it is unknown or symbolic.
    """
    if value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        msg = f"latency needs static shapes: {value.name!r} has shape {value.shape}"
        raise TargetError(msg, hint="give every input a static shape with `--input NAME:1x3x224x224`")
    return tuple(int(dim) for dim in value.shape.numpy())


def _attention_shape(head: ir.Node, members: list[ir.Node]) -> tuple[int, int, int, int]:
    """Batch x heads, queries, keys, head size."""
    if head.op_type != "Softmax":
        *outer, rows, size = dims(_given(head.inputs[0]))
        return prod(outer), rows, dims(_given(head.inputs[1]))[-2], size
    *outer, rows, columns = dims(head.outputs[0])
    mixes = [node for node in members if node.op_type in {"MatMul", "Einsum"}]
    size = dims(mixes[-1].outputs[0])[-1] if mixes else 64
    return prod(outer), rows, columns, size


def _product_shape(node: ir.Node) -> tuple[int, int, int, int]:
    *outer, n = dims(node.outputs[0])
    left, right = _given(node.inputs[0]), _given(node.inputs[1])
    if node.op_type in {"Conv", "ConvTranspose"}:
        batch, channels, *space = dims(node.outputs[0])
        return 1, batch * prod(space), channels, prod(dims(right)[1:])
    if node.op_type == "Gemm":
        return 1, prod(outer), n, prod(dims(left)) // max(1, prod(outer))
    if node.op_type == "Einsum":
        return 1, prod(outer), n, max(1, prod(dims(left)) // max(1, prod(outer)))
    k = dims(left)[-1]
    if len(dims(right)) <= 2:
        return 1, prod(outer), n, k
    return prod(outer[:-1]), outer[-1], n, k


def _given(value: ir.Value | None) -> ir.Value:
    if value is None:
        msg = "latency cannot be modelled: a matrix product lacks an operand"
        raise TargetError(msg, hint="check the model with `edgeprune inspect`")
    return value
