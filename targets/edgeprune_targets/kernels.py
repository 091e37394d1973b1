"""The kernels that a fusing compiler makes of a graph, with shapes and traffic: what the latency model adds up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Literal, TypeAlias

from edgeprune.core.errors import TargetError
from edgeprune.core.graph import static_shape
from edgeprune_targets._launches import PRODUCTS, launches
from edgeprune_targets._scan_kernels import body_of, chunked_bytes, is_recurrence
from edgeprune_targets.attentions import is_attention
from edgeprune_targets.blocks import blocks_of

if TYPE_CHECKING:
    import onnx_ir as ir

Kind: TypeAlias = Literal["gemm", "conv", "depthwise", "attention", "select", "pointwise"]
_FLOAT_BYTES = {"int8": 1, "fp16": 2, "fp32": 4}


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
    blocks = blocks_of(nodes)
    found: list[Kernel] = []
    for members in launches(nodes):
        head = _head(members)
        if is_recurrence(head):
            found += _recurrence(head, blocks[head], precision)
        else:
            found.append(_kernel(members, head, blocks[head], precision))
    return tuple(found)


def _recurrence(node: ir.Node, block: int, precision: str) -> Iterator[Kernel]:
    """A selective scan in chunks; of a loop the kernels of its body, once for every step."""
    name = node.name or node.op_type
    if node.op_type == "SelectiveScan":
        for size in chunked_bytes(node):
            yield Kernel(kind="pointwise", node=name, block=block, activation_bytes=size)
        return
    steps, inner = body_of(node)
    bare = Kernel(kind="pointwise", node=name, block=block)  # of a body without shapes only the launches are known
    known = all(static_shape(value) is not None for each in inner for value in each.outputs)
    groups = launches(inner)
    body = [_kernel(members, _head(members), block, precision) if known else bare for members in groups]
    for kernel in body * steps:
        yield replace(kernel, node=name)


def _with_shapes(model: ir.Model) -> ir.Model:
    if all(value.shape is not None for node in model.graph for value in node.outputs if value.name):
        return model
    from onnx_ir.passes import common

    copy = model.clone()
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy)
    return copy


def _kernel(members: list[ir.Node], head: ir.Node, block: int, precision: str) -> Kernel:
    weights, activations = _traffic(members, precision)
    kind, (batch, m, n, k) = _shape(head, members)
    flops = (4 if kind == "attention" else 2) * batch * m * n * k
    return Kernel(
        kind=kind, node=head.name or head.op_type, block=block, batch=batch, m=m, n=n, k=k, flops=flops,
        weight_bytes=weights, activation_bytes=activations,
    )  # fmt: skip


def _head(members: list[ir.Node]) -> ir.Node:
    """The node that a kernel is known by: an attention's anchor, else a product, a TopK, or the first."""
    for wanted in (is_attention, lambda node: node.op_type in PRODUCTS, lambda node: node.op_type == "TopK"):
        found = next(filter(wanted, members), None)
        if found is not None:
            return found
    return members[0]


def _shape(head: ir.Node, members: list[ir.Node]) -> tuple[Kind, tuple[int, int, int, int]]:
    if is_attention(head):
        return "attention", _attention_shape(head, members)
    if head.op_type not in PRODUCTS:
        return ("select" if head.op_type == "TopK" else "pointwise"), (1, 0, 0, 0)
    if head.op_type in {"Conv", "ConvTranspose"}:
        shape = _convolution_shape(head)
        return ("conv" if shape[0] == 1 else "depthwise"), shape
    batch, m, n, k = _product_shape(head)
    siblings = (node for node in members if node.op_type in {"MatMul", "Gemm"} and node is not head)
    return "gemm", (batch, m, n + sum(dims(node.outputs[0])[-1] for node in siblings), k)


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
    size_of_one = _FLOAT_BYTES[precision] if value.dtype.name == "FLOAT" else value.dtype.itemsize
    return int(size * size_of_one)


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


def _convolution_shape(node: ir.Node) -> tuple[int, int, int, int]:
    """Groups, pixels of all images, channels a group, and the size of the window."""
    batch, channels, *space = dims(node.outputs[0])
    groups = node.attributes.get_int("group", 1)
    window = dims(_given(node.inputs[1]))
    if node.op_type == "Conv":
        return groups, batch * prod(space), channels // groups, prod(window[1:])
    pixels = batch * prod(dims(_given(node.inputs[0]))[2:])  # each input pixel makes a patch of the output
    return groups, pixels, prod(window[1:]), window[0] // groups


def _product_shape(node: ir.Node) -> tuple[int, int, int, int]:
    *outer, n = dims(node.outputs[0])
    left, right = _given(node.inputs[0]), _given(node.inputs[1])
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
