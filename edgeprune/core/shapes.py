"""Type and shape of what edgeprune writes, by ONNX's own inference, one node at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from onnx import shape_inference

from edgeprune.core.errors import PassError
from edgeprune.core.graph import constant_of, static_shape

if TYPE_CHECKING:
    from collections.abc import Iterator

_SMALL = 4096


def infer_shapes(node: ir.Node, opset: int) -> None:
    """Set type and shape of the node's outputs.

    Raises:
        PassError: if ONNX rejects the node; edgeprune wrote it, so that is our bug.
    """
    proto = ir.to_proto(node)
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    present = [value for value in node.inputs if value is not None]
    try:
        types = shape_inference.infer_node_outputs(
            schema,
            proto,
            {str(v.name): _type_proto(v) for v in present},
            dict(_data(present)),
            opset_imports=[onnx.helper.make_opsetid(node.domain, opset)],
        )
    except Exception as error:
        msg = f"ONNX rejects the node {node.name} ({node.op_type}): {error}"
        raise PassError(
            msg, hint="this is a bug in edgeprune; please report it with the model's architecture"
        ) from error
    for value in node.outputs:
        if str(value.name) in types:
            _set_type(value, types[str(value.name)])


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    dtype = value.dtype
    if dtype is None:
        msg = f"`{value.name}` has no type"
        raise PassError(msg, hint="this is a bug in edgeprune; please report it with the model's architecture")
    return onnx.helper.make_tensor_type_proto(int(dtype), static_shape(value))


def _data(values: list[ir.Value]) -> Iterator[tuple[str, onnx.TensorProto]]:
    for value in values:
        array = constant_of(value)
        if array is not None and array.size <= _SMALL:
            yield str(value.name), onnx.numpy_helper.from_array(array, str(value.name))


def _set_type(value: ir.Value, proto: onnx.TypeProto) -> None:
    tensor = proto.tensor_type
    value.dtype = ir.DataType(tensor.elem_type)
    if all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        value.shape = ir.Shape([dim.dim_value for dim in tensor.shape.dim])
