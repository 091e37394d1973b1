"""ONNX operators in PyTorch, by name: what exported encoders and what edgeprune puts into them consist of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional

Tensor = torch.Tensor


def constant(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """What a value always holds; None where that depends on the inputs."""
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    node = value.producer()
    if node is None or node.op_type != "Constant":
        return None
    return np.asarray(next(iter(node.attributes.values())).as_tensor().numpy())


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value


def _sizes(node: ir.Node, position: int, name: str = "axes") -> list[int] | None:
    """Numbers that stand in a constant input, or in an attribute as older opsets have them."""
    if name in node.attributes:
        return [int(number) for number in np.atleast_1d(node.attributes[name].value)]
    found = constant(node.inputs[position]) if len(node.inputs) > position else None
    return None if found is None else [int(number) for number in found.ravel()]


def _slice(node: ir.Node, x: Sequence[Any]) -> Tensor:
    starts, ends = _sizes(node, 1, "starts") or [], _sizes(node, 2, "ends") or []
    axes = _sizes(node, 3) or list(range(len(starts)))
    steps = _sizes(node, 4, "steps") or [1] * len(starts)
    picked = [slice(None)] * x[0].dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        picked[axis] = slice(start, end, step)
    result: Tensor = x[0][tuple(picked)]
    return result


def _reshape(node: ir.Node, x: Sequence[Any]) -> Tensor:
    wanted = [x[0].shape[i] if size == 0 else size for i, size in enumerate(_sizes(node, 1, "shape") or [])]
    result: Tensor = x[0].reshape(wanted)
    return result


def _split(node: ir.Node, x: Sequence[Any]) -> tuple[Tensor, ...]:
    axis, count = _attribute(node, "axis", 0), len(node.outputs)
    sizes = _sizes(node, 1, "split") or -(-x[0].shape[axis] // count)  # even parts, the last one smaller
    return torch.split(x[0], sizes, dim=axis)


def _squeeze(node: ir.Node, x: Sequence[Any]) -> Tensor:
    axes = _sizes(node, 1)
    return torch.squeeze(x[0]) if axes is None else torch.squeeze(x[0], tuple(axes))


def _unsqueeze(node: ir.Node, x: Sequence[Any]) -> Tensor:
    axes = _sizes(node, 1) or []
    rank = x[0].dim() + len(axes)
    made: Tensor = x[0]
    for axis in sorted(axis % rank for axis in axes):
        made = made.unsqueeze(axis)
    return made


def _reduce(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Callable[[ir.Node, Sequence[Any]], Tensor]:
    def run(node: ir.Node, x: Sequence[Any]) -> Tensor:
        axes = tuple(_sizes(node, 1) or range(x[0].dim()))
        return function(x[0], axes, bool(_attribute(node, "keepdims", 1)))

    return run


def _topk(node: ir.Node, x: Sequence[Any]) -> tuple[Tensor, Tensor]:
    (count,) = _sizes(node, 1, "k") or [1]
    axis, largest = _attribute(node, "axis", -1), bool(_attribute(node, "largest", 1))
    found = torch.topk(x[0], count, dim=axis, largest=largest, sorted=bool(_attribute(node, "sorted", 1)))
    return found.values, found.indices


def _gather(node: ir.Node, x: Sequence[Any]) -> Tensor:
    axis = _attribute(node, "axis", 0) % x[0].dim()
    known = constant(node.inputs[1])
    plain = known is not None and (known >= 0).all()
    index = x[1] if plain else torch.where(x[1] < 0, x[1] + x[0].shape[axis], x[1])
    shape = (*x[0].shape[:axis], *index.shape, *x[0].shape[axis + 1 :])
    return torch.index_select(x[0], axis, index.reshape(-1)).reshape(shape)


def _gather_nd(node: ir.Node, x: Sequence[Any]) -> Tensor:
    batch = _attribute(node, "batch_dims", 0)
    lead = [torch.arange(size, device=x[0].device) for size in x[0].shape[:batch]]
    spread = [index.reshape([-1 if i == axis else 1 for i in range(x[1].dim() - 1)]) for axis, index in enumerate(lead)]
    result: Tensor = x[0][(*spread, *x[1].unbind(-1))]
    return result


def _gemm(node: ir.Node, x: Sequence[Any]) -> Tensor:
    a = x[0].mT if _attribute(node, "transA", 0) else x[0]
    b = x[1].mT if _attribute(node, "transB", 0) else x[1]
    made = _attribute(node, "alpha", 1.0) * (a @ b)
    return made if len(x) < 3 or x[2] is None else torch.as_tensor(made + _attribute(node, "beta", 1.0) * x[2])


def _conv(node: ir.Node, x: Sequence[Any]) -> Tensor:
    rank = x[0].dim() - 2
    pads = list(_attribute(node, "pads", [0] * (2 * rank)))
    if pads[:rank] != pads[rank:]:
        msg = f"uneven padding of a convolution: node {node.name}"
        raise NotImplementedError(msg)
    run = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[rank]
    bias = x[2] if len(x) > 2 else None
    strides = list(_attribute(node, "strides", [1] * rank))
    dilations = list(_attribute(node, "dilations", [1] * rank))
    return run(x[0], x[1], bias, strides, pads[:rank], dilations, _attribute(node, "group", 1))


def _layer_norm(node: ir.Node, x: Sequence[Any]) -> Tensor:
    axis = _attribute(node, "axis", -1) % x[0].dim()
    bias = x[2] if len(x) > 2 else None
    return functional.layer_norm(x[0], x[0].shape[axis:], x[1], bias, _attribute(node, "epsilon", 1e-5))


def _arg_max(node: ir.Node, x: Sequence[Any]) -> Tensor:
    return torch.argmax(x[0], dim=_attribute(node, "axis", 0), keepdim=bool(_attribute(node, "keepdims", 1)))


def _cast(node: ir.Node, x: Sequence[Any]) -> Tensor:
    kind = ir.DataType(_attribute(node, "to", 1)).numpy()
    result: Tensor = x[0].to(torch.from_numpy(np.zeros(0, kind)).dtype)
    return result


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[ir.Node, Sequence[Any]], Tensor]:
    def run(_: ir.Node, x: Sequence[Any]) -> Tensor:
        made: Tensor = x[0]
        for other in x[1:]:
            made = function(made, other)
        return made

    return run


OPERATORS: dict[str, Callable[[ir.Node, Sequence[Any]], Any]] = {
    "Add": _fold(torch.add),
    "And": _fold(torch.logical_and),
    "ArgMax": _arg_max,
    "Cast": _cast,
    "Concat": lambda node, x: torch.cat(list(x), dim=_attribute(node, "axis", 0)),
    "Conv": _conv,
    "Div": _fold(torch.div),
    "Equal": _fold(torch.eq),
    "Erf": lambda _, x: torch.erf(x[0]),
    "Exp": lambda _, x: torch.exp(x[0]),
    "Expand": lambda node, x: x[0].expand(torch.broadcast_shapes(x[0].shape, tuple(_sizes(node, 1, "shape") or ()))),
    "Gather": _gather,
    "GatherElements": lambda node, x: torch.gather(x[0], _attribute(node, "axis", 0), x[1]),
    "GatherND": _gather_nd,
    "Gelu": lambda node, x: functional.gelu(x[0], approximate=_attribute(node, "approximate", "none")),
    "Gemm": _gemm,
    "Greater": _fold(torch.gt),
    "GreaterOrEqual": _fold(torch.ge),
    "Identity": lambda _, x: x[0],
    "LayerNormalization": _layer_norm,
    "Less": _fold(torch.lt),
    "LessOrEqual": _fold(torch.le),
    "Log": lambda _, x: torch.log(x[0]),
    "MatMul": _fold(torch.matmul),
    "Max": _fold(torch.maximum),
    "Min": _fold(torch.minimum),
    "Mul": _fold(torch.mul),
    "Neg": lambda _, x: torch.neg(x[0]),
    "Not": lambda _, x: torch.logical_not(x[0]),
    "Or": _fold(torch.logical_or),
    "Pow": _fold(torch.pow),
    "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Reshape": _reshape,
    "Sigmoid": lambda _, x: torch.sigmoid(x[0]),
    "Slice": _slice,
    "Softmax": lambda node, x: torch.softmax(x[0], dim=_attribute(node, "axis", -1)),
    "Split": _split,
    "Sqrt": lambda _, x: torch.sqrt(x[0]),
    "Squeeze": _squeeze,
    "Sub": _fold(torch.sub),
    "Tanh": lambda _, x: torch.tanh(x[0]),
    "TopK": _topk,
    "Transpose": lambda node, x: x[0].permute(list(_attribute(node, "perm", list(range(x[0].dim()))[::-1]))),
    "Unsqueeze": _unsqueeze,
    "Where": lambda _, x: torch.where(x[0], x[1], x[2]),
}
