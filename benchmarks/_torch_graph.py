"""An ONNX graph run by PyTorch, node by node, in a CUDA graph where there is a GPU: for machines with PyTorch only.

Attention goes to `scaled_dot_product_attention` where nothing else reads its logits or probabilities, which is the
condition under which TensorRT fuses it too. Everything else is one kernel or more a node: element-wise nodes are not
fused, so a graph with many small nodes looks slower here than in an engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from _torch_operators import OPERATORS, constant
from torch.nn import functional

Tensor = torch.Tensor
_SKIPPED = {"Cast", "Identity"}
_WARM_UP = 3  # runs before a capture: libraries allocate in the first ones


class TorchGraph:
    """A static graph on one device.

    Args:
        model: static shapes; what names a shape or an axis is constant.
        device: 'cuda' or 'cpu'.

    Raises:
        NotImplementedError: naming an operator that is not in the table.
    """

    def __init__(self, model: ir.Model, device: str) -> None:
        self.device = torch.device(device)
        self.inputs = [str(value.name) for value in model.graph.inputs]
        self.outputs = list(model.graph.outputs)
        self.attentions = {node: found for node in model.graph if (found := find_attention(node)) is not None}
        inside = {inner for found in self.attentions.values() for inner in found.inside}
        self.nodes = [node for node in model.graph if node not in inside and node.op_type != "Constant"]
        self.constants = {
            value: torch.from_numpy(np.array(array)).to(self.device)
            for node in self.nodes
            for value in self._read(node)
            if value is not None and (array := constant(value)) is not None
        }
        for node in self.nodes:
            if node not in self.attentions and node.op_type not in OPERATORS:
                msg = f"no {node.op_type} in the table: node {node.name}"
                raise NotImplementedError(msg)
        self._feeds = {str(value.name): value for value in model.graph.inputs}
        self._static: dict[str, Tensor] = {}
        self._captured: Any = None

    def _read(self, node: ir.Node) -> Sequence[ir.Value | None]:
        found = self.attentions.get(node)
        return found.reads if found is not None else tuple(node.inputs)

    def forward(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """Run every node in order."""
        values: dict[ir.Value, Tensor] = dict(self.constants)
        values.update({self._feeds[name]: tensor for name, tensor in feeds.items() if name in self._feeds})
        for node in self.nodes:
            arguments = [None if value is None else values[value] for value in self._read(node)]
            if node in self.attentions:
                made: Any = self.attentions[node].run(arguments)
            else:
                made = OPERATORS[node.op_type](node, arguments)
            many = made if isinstance(made, tuple) else (made,)
            values.update(dict(zip(node.outputs, many, strict=False)))
        return [values[value] for value in self.outputs]

    @torch.inference_mode()
    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run once, for the outputs."""
        made = self.forward({name: torch.from_numpy(array).to(self.device) for name, array in feeds.items()})
        names = [str(value.name) for value in self.outputs]
        return {name: tensor.cpu().numpy() for name, tensor in zip(names, made, strict=True)}

    @torch.inference_mode()
    def sample_ms(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> float:
        """Milliseconds of one replay by the device's clock, inputs copied before."""
        if self._captured is None:
            self._capture(feeds)
        for name, tensor in self._static.items():
            tensor.copy_(torch.from_numpy(feeds[name]))
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        self._captured.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    def _capture(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._static = {name: torch.from_numpy(feeds[name]).to(self.device) for name in self.inputs}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self.forward(self._static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.forward(self._static)
        self._captured = graph


@dataclass(frozen=True, eq=False)
class Attention:
    """softmax(scale * Q K + mask) V, of which nothing else reads a part."""

    inside: tuple[ir.Node, ...]
    reads: tuple[ir.Value | None, ...]
    scale: float

    def run(self, arguments: Sequence[Tensor | None]) -> Tensor:
        """One call."""
        query, key, value, mask = arguments
        assert query is not None
        assert key is not None
        assert value is not None
        mask = None if mask is None else mask.to(value.dtype)
        key = key.transpose(-1, -2).to(value.dtype)
        return functional.scaled_dot_product_attention(query.to(value.dtype), key, value, mask, scale=self.scale)


def find_attention(last: ir.Node) -> Attention | None:
    """The attention that ends in a MatMul, if it is one."""
    if last.op_type != "MatMul" or last.inputs[0] is None or last.inputs[1] is None:
        return None
    shape = last.inputs[0].shape
    inside: list[ir.Node] = []
    node = _alone(last.inputs[0], inside)
    if node is None or node.op_type != "Softmax" or shape is None or len(shape) != 4:
        return None
    scale, mask = 1.0, None
    node = _alone(node.inputs[0], inside)
    while node is not None and node.op_type in {"Mul", "Div", "Add"}:
        if node.op_type == "Add":
            if mask is not None or scale != 1.0:
                return None
            first = node.inputs[0].producer() if node.inputs[0] is not None else None
            mask = node.inputs[1 if first is not None and first.op_type in {"MatMul", "Mul", "Div", "Cast"} else 0]
            node = _alone(next(value for value in node.inputs if value is not mask), inside)
            continue
        factor = constant(node.inputs[1])
        if factor is None or factor.size != 1:
            return None
        scale *= float(factor.item()) if node.op_type == "Mul" else 1 / float(factor.item())
        node = _alone(node.inputs[0], inside)
    if node is None or node.op_type != "MatMul":
        return None
    return Attention(tuple(inside), (node.inputs[0], node.inputs[1], last.inputs[1], mask), scale)


def _alone(value: ir.Value | None, inside: list[ir.Node]) -> ir.Node | None:
    """What made a value that only one node reads, casts skipped; they are noted as inside."""
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        node = value.producer()
        if node is None:
            return None
        inside.append(node)
        if node.op_type not in _SKIPPED:
            return node
        value = node.inputs[0]
    return None
