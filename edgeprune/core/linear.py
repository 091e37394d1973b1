"""One view of a linear map with a constant weight: MatMul with or without an Add behind it, or Gemm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import constant_of, consumers

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """y = x @ weight + bias.

    Attributes:
        node: the product.
        transposed: whether the initializer is [out, in].
        adder: the Add of the bias; None for Gemm, and where there is no bias.
        bias_index: input of `adder` or of a Gemm that holds the bias; None where there is none.
    """

    node: ir.Node
    transposed: bool
    adder: ir.Node | None
    bias_index: int | None

    @property
    def data(self) -> ir.Value:
        """x, [..., in]."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        """Behind the bias, [..., out]."""
        return (self.adder or self.node).outputs[0]

    @property
    def weight(self) -> np.ndarray:
        """[in, out]."""
        array = constant_of(self.node.inputs[1])
        assert array is not None
        return array.T if self.transposed else array

    @property
    def bias(self) -> np.ndarray:
        """[out]; zeros where there is none."""
        holder = self.adder or self.node
        array = constant_of(holder.inputs[self.bias_index]) if self.bias_index is not None else None
        out = self.weight.shape[1]
        return np.zeros(out, self.weight.dtype) if array is None else np.broadcast_to(array.reshape(-1), (out,))

    @property
    def gain(self) -> np.ndarray:
        """[out]; what multiplies the result next, as LayerScale does; ones where nothing does."""
        out = self.weight.shape[1]
        users = list(consumers(self.output))
        found = [constant_of(v) for v in users[0].inputs] if len(users) == 1 and users[0].op_type == "Mul" else []
        scale = next((array for array in found if array is not None and array.size in {1, out}), None)
        return np.ones(out) if scale is None else np.broadcast_to(scale.reshape(-1), (out,)).astype(np.float64)


def linear_of(node: ir.Node | None) -> Linear | None:
    """The linear map that a node is the product of, else None."""
    if node is None or node.op_type not in {"MatMul", "Gemm"} or constant_of(node.inputs[0]) is not None:
        return None
    weight = constant_of(node.inputs[1])
    if weight is None or weight.ndim != 2 or weight.dtype.kind != "f":
        return None
    if node.op_type == "Gemm":
        return _gemm(node, weight)
    adder = _adder(node, weight.shape[1])
    index = None if adder is None else int(adder.inputs[0] is node.outputs[0])
    return Linear(node, transposed=False, adder=adder, bias_index=index)


def _gemm(node: ir.Node, weight: np.ndarray) -> Linear | None:
    attributes = node.attributes
    scales = [attributes[name].as_float() for name in ("alpha", "beta") if name in attributes]
    turned = "transA" in attributes and attributes["transA"].as_int()
    if turned or any(scale != 1.0 for scale in scales):
        return None
    transposed = bool("transB" in attributes and attributes["transB"].as_int())
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    bias = constant_of(node.inputs[2]) if has_bias else None
    if has_bias and (bias is None or bias.size != weight.shape[0 if transposed else 1]):
        return None
    return Linear(node, transposed=transposed, adder=None, bias_index=2 if has_bias else None)


def _adder(node: ir.Node, width: int) -> ir.Node | None:
    """The Add of a vector that alone reads the product."""
    users = list(consumers(node.outputs[0]))
    if len(users) != 1 or users[0].op_type != "Add" or node.outputs[0].is_graph_output():
        return None
    found = [constant_of(value) for value in users[0].inputs]
    bias = next((array for array in found if array is not None), None)
    return users[0] if bias is not None and bias.shape[-1:] == (width,) and bias.size == width else None
