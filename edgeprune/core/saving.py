"""Write a model file one weight at a time, so that a large model is in memory once and not three times.

The bytes are an ordinary ModelProto. Protobuf's own serialiser builds the whole message, then copies it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

# Protobuf ends at 2 GiB; weights above this go to a file beside the graph.
INLINE_BYTES = 1_800_000_000

# Wire tags of two length-delimited fields: ModelProto.graph is number 7, GraphProto.initializer is number 5.
_GRAPH, _INITIALIZER = b"\x3a", b"\x2a"


def save_model(model: ir.Model, path: Path) -> None:
    """Save a graph; weights beyond protobuf's limit go to `PATH.data` beside it."""
    weights = {
        value.name: value.const_value for value in model.graph.initializers.values() if value.const_value is not None
    }
    if sum(tensor.nbytes for tensor in weights.values()) > INLINE_BYTES:
        ir.save(model, path, external_data=f"{path.name}.data")
        return
    bare = model.clone()
    for name in weights:
        del bare.graph.initializers[str(name)]
    head = ir.to_proto(bare)
    graph = head.graph.SerializeToString()
    head.ClearField("graph")
    sizes = [_tensor(str(name), tensor).ByteSize() for name, tensor in weights.items()]
    total = len(graph) + sum(len(_INITIALIZER) + len(_varint(size)) + size for size in sizes)
    with path.open("wb") as file:
        file.write(head.SerializeToString() + _GRAPH + _varint(total) + graph)
        for (name, tensor), size in zip(weights.items(), sizes, strict=True):
            file.write(_INITIALIZER + _varint(size))
            file.write(_tensor(str(name), tensor).SerializeToString())


def _tensor(name: str, tensor: ir.TensorProtocol) -> onnx.TensorProto:
    """One weight inside the file, wherever it was."""
    if isinstance(tensor, ir.ExternalTensor):
        tensor = ir.tensor(tensor.numpy(), name=name, dtype=tensor.dtype)
    proto = ir.to_proto(tensor)
    proto.name = name
    return proto


def _varint(number: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, low first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
