"""A selective scan that is one operator of somebody's own, such as `selective_scan`, with the arguments of mamba_ssm.

    u, delta [B, D, L]   A [D, n]   B, C [B, n, L] or [B, 1, n, L]   D [D]   z [B, D, L]   delta_bias [D]
    delta = softplus(delta + delta_bias);  y = scan + u * D;  out = y * silu(z)

It is expanded before constants are folded, since nobody infers a shape behind an unknown operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgeprune.core.graph import PREFIX, constant_of
from edgeprune.core.scans import DOMAIN
from edgeprune.core.tape import add_initializer, fresh_name
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._edit import replace_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeprune.core.refusals import Refusal

# Operators of the kernels give what is not gated yet first, and what is gated last.
_KERNELS = {"selectivescanfwd", "selectivescancudafwd", "selectivescancuda"}
_FUNCTIONS = {"selectivescan", "selectivescanfn", "selectivescanref", "mambaselectivescan"}
_OTHERS = {"mambainnerfn", "mambainnerfwd", "mambachunkscan", "mambachunkscancombined", "mambasplitconv1dscancombined"}


def expand_scans(model: ir.Model) -> tuple[int, list[Refusal]]:
    """Expand every such operator; how many, and why others were left."""
    nodes = [node for node in model.graph if _kind(node) is not None]
    refusals = [refusal for node in nodes if (refusal := _tried(model, node)) is not None]
    if len(refusals) < len(nodes):
        common.RemoveUnusedNodesPass()(model)
        used = {node.domain for node in model.graph.all_nodes()}
        for domain in {node.domain for node in nodes} - used - {""}:
            model.graph.opset_imports.pop(domain, None)
    return len(nodes) - len(refusals), refusals


def _kind(node: ir.Node) -> str | None:
    """`function`, `kernel` or `other`; None for an operator that is none of them."""
    if node.domain == DOMAIN:
        return None
    name = node.op_type.rpartition("::")[2].replace("_", "").lower()
    if name in _KERNELS:
        return "kernel"
    return "function" if name in _FUNCTIONS else "other" if name in _OTHERS else None


def _tried(model: ir.Model, node: ir.Node) -> Refusal | None:
    try:
        _expand(model, node)
    except DeclinedError as declined:
        return declined.refusal
    return None


def _expand(model: ir.Model, node: ir.Node) -> None:
    if _kind(node) == "other":
        raise DeclinedError(node, f"{node.op_type} fuses more than a scan, or is one of Mamba-2")
    _check_outputs(node)
    write = _Writer(model, node)
    inputs = [*node.inputs, *[None] * (9 - len(node.inputs))]
    u, delta, matrix, rows, columns, skip, gate, bias, _ = inputs[:9]
    if u is None or delta is None or matrix is None or rows is None or columns is None:
        raise DeclinedError(node, f"{node.op_type} has {len(node.inputs)} inputs, u, delta, A, B and C are expected")
    step = write.swapped(delta)
    step = write.op("Add", step, bias) if bias is not None else step
    step = write.op("Softplus", step) if _softplus(node, inputs[8]) else step
    tokens = write.swapped(u)
    every = (step, matrix, write.op("Mul", step, tokens), write.rows(rows), write.rows(columns))
    result = _scan(write, *every)
    result = write.op("Add", result, write.op("Mul", tokens, skip)) if skip is not None else result
    plain = write.swapped(result)
    gated = write.op("Mul", plain, write.op("Mul", gate, write.op("Sigmoid", gate))) if gate is not None else plain
    for value, new in _results(node, plain, gated):
        replace_value(value, new)


def _results(node: ir.Node, plain: ir.Value, gated: ir.Value) -> Iterator[tuple[ir.Value, ir.Value]]:
    if _kind(node) == "function":
        yield node.outputs[0], gated
        return
    yield node.outputs[0], plain
    if len(node.outputs) > 2:
        yield node.outputs[2], gated


def _check_outputs(node: ir.Node) -> None:
    # The second output is the state after the last token.
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:2]):
        raise DeclinedError(node, "the state after the last token is read")


def _softplus(node: ir.Node, flag: ir.Value | None) -> bool:
    if "delta_softplus" in node.attributes:
        return bool(node.attributes["delta_softplus"].as_int())
    said = constant_of(flag)
    if flag is not None and (said is None or said.size != 1):
        raise DeclinedError(node, f"the ninth input of {node.op_type} is no constant, delta_softplus is expected")
    return said is not None and bool(said.reshape(()))


def _scan(
    write: _Writer, step: ir.Value, matrix: ir.Value, fed: ir.Value, rows: ir.Value, columns: ir.Value
) -> ir.Value:
    """The recurrence as a Scan of ONNX, which shapes can stand in for; it is raised with all others."""
    prefix = write.prefix
    names = ("h", "step", "input", "b", "c")
    state, step_t, fed_t, row, column = (ir.Value(name=f"{prefix}/{name}", type=write.type) for name in names)
    nodes: list[ir.Node] = []

    def op(op_type: str, *inputs: ir.Value) -> ir.Value:
        node = ir.Node("", op_type, inputs, name=f"{prefix}/{op_type}_{len(nodes)}")
        node.outputs[0].name = node.name
        nodes.append(node)
        return node.outputs[0]

    last, first = write.ints(-1), write.ints(1)
    kept = op("Mul", op("Exp", op("Mul", op("Unsqueeze", step_t, last), matrix)), state)
    after = op("Add", kept, op("Mul", op("Unsqueeze", fed_t, last), op("Unsqueeze", row, first)))
    read = op("Squeeze", op("MatMul", after, op("Unsqueeze", column, last)), last)
    body = ir.Graph([state, step_t, fed_t, row, column], [after, read], nodes=nodes, name=f"{prefix}/body")
    sizes = write.op("Shape", step)
    shape = write.op("Concat", write.op("Gather", sizes, write.ints(0), axis=0), write.op("Shape", matrix), axis=0)
    start = write.op("ConstantOfShape", shape, value=ir.tensor(np.zeros(1, np.float32)))
    axes = {"num_scan_inputs": 4, "scan_input_axes": [1] * 4, "scan_output_axes": [1]}
    return write.ops("Scan", start, step, fed, rows, columns, outputs=2, body=body, **axes)[1]


class _Writer:
    """Writes plain nodes before one that it replaces, without knowing any shape."""

    def __init__(self, model: ir.Model, node: ir.Node) -> None:
        self.prefix = fresh_name(model, f"{PREFIX}custom")
        self.type = node.inputs[0].type if node.inputs and node.inputs[0] is not None else None
        self._model, self._node = model, node

    def op(self, op_type: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        """A node with one output."""
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: ir.Value, outputs: int, **attributes: object) -> tuple[ir.Value, ...]:
        """A node with several outputs."""
        node = ir.node(op_type, list(inputs), attributes=attributes, num_outputs=outputs)  # type: ignore[arg-type]
        node.name = fresh_name(self._model, f"{self.prefix}/{op_type}")
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}/{index}"
        self._model.graph.insert_before(self._node, node)
        return tuple(node.outputs)

    def ints(self, *numbers: int) -> ir.Value:
        """A constant."""
        return add_initializer(self._model, np.array(numbers, np.int64), fresh_name(self._model, f"{self.prefix}/ints"))

    def swapped(self, value: ir.Value) -> ir.Value:
        """[B, D, L] as [B, L, D] and back."""
        return self.op("Transpose", value, perm=[0, 2, 1])

    def rows(self, value: ir.Value) -> ir.Value:
        """[B, n, L] or [B, 1, n, L] as [B, L, n].

        Raises:
            DeclinedError: if there are several groups of channels, or no axis of tokens.
        """
        shape = value.shape
        if shape is None:
            return self.swapped(self._three_axes(value))
        if len(shape) == 2:
            raise DeclinedError(self._node, "B or C is the same for every token: not selective")
        if len(shape) == 4 and isinstance(shape[1], int) and shape[1] != 1:
            raise DeclinedError(self._node, f"B and C have {shape[1]} groups of channels, one is expected")
        return self.swapped(value if len(shape) == 3 else self.op("Squeeze", value, self.ints(1)))

    def _three_axes(self, value: ir.Value) -> ir.Value:
        """What has three axes or four, as three: batch and tokens are those of u."""
        source = self._node.inputs[0]
        assert source is not None
        sizes = self.op("Shape", source)
        ends = [self.op("Gather", sizes, self.ints(axis), axis=0) for axis in (0, 2)]
        return self.op("Reshape", value, self.op("Concat", ends[0], self.ints(-1), ends[1], axis=0))
