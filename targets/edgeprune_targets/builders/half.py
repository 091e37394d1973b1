"""The kept library that types a graph in fp16, with its known faults mended.

onnxruntime's `transformers.float16` types every value right, which its forerunner `onnxconverter-common` 1.16 does not
(a Cast to float, and an initializer that fp32 and fp16 nodes share, come out with the wrong type). What it leaves to
mend: Casts of one value repeated under one name, no topological order, and a detour over fp16 between two fp32 nodes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import onnx
    import onnx_ir as ir


def convert_to_half(proto: onnx.ModelProto, fp32_node_names: Iterable[str]) -> ir.Model:
    """Type all floats of `proto` fp16 but graph inputs, graph outputs and the named nodes.

    `proto` is used up. It needs unique node names, a type for every value, and initializers that belong either to
    fp32 nodes or to fp16 nodes.
    """
    import onnx_ir as ir

    _drop_infos_of_initializers(proto.graph)
    typed = _library()(
        proto,
        min_positive_val=5.97e-8,
        max_finite_val=65504.0,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=[],
        node_block_list=list(fp32_node_names),
    )
    _drop_repeated_casts(typed.graph)
    model = ir.from_proto(typed)
    model.graph.sort()
    _straighten(model.graph)
    return model


def _library() -> Callable[..., onnx.ModelProto]:
    """Import the converter; onnxruntime.transformers puts its own folder on the path, which is taken off again."""
    before = list(sys.path)
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    finally:
        sys.path[:] = before
    converter: Callable[..., onnx.ModelProto] = convert_float_to_float16
    return converter


def _drop_infos_of_initializers(graph: onnx.GraphProto) -> None:
    """An initializer types itself; the library would turn the second opinion to fp16 and leave the first."""
    names = {tensor.name for tensor in graph.initializer}
    kept = [info for info in graph.value_info if info.name not in names]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _drop_repeated_casts(graph: onnx.GraphProto) -> None:
    seen: set[str] = set()
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.output[0] in seen:
            continue
        seen.update(node.output)
        nodes.append(node)
    infos = {info.name: info for info in graph.value_info}
    del graph.node[:]
    graph.node.extend(nodes)
    kept = list(infos.values())
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _straighten(graph: ir.Graph) -> None:
    """Let fp32 nodes read fp32 values directly, and take away Casts that change nothing or that nobody reads."""
    for node in tuple(graph):
        if node.op_type == "Cast":
            _bypass(graph, node)
    for node in reversed(tuple(graph)):
        if node.op_type != "Cast":
            continue
        _name_fp32_side(node)
        if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)


def _bypass(graph: ir.Graph, cast: ir.Node) -> None:
    target = cast.outputs[0]
    source = _source(cast)
    if source is None:
        return
    if not target.is_graph_output():
        target.replace_all_uses_with(source)
        return
    if source.is_graph_output() or source.is_graph_input() or source.is_initializer():
        return
    name, target.name = target.name, f"{target.name}/cast"
    graph.outputs[[value is target for value in graph.outputs].index(True)] = source
    target.replace_all_uses_with(source)
    source.name = name


def _source(cast: ir.Node) -> ir.Value | None:
    """Value of the Cast's own output type that it could be replaced by, or None."""
    import onnx_ir as ir

    value, target = cast.inputs[0], cast.outputs[0]
    if value is None:
        return None
    if value.dtype == target.dtype:
        return value
    before = value.producer()
    if before is None or before.op_type != "Cast" or value.dtype != ir.DataType.FLOAT16:
        return None
    origin = before.inputs[0]
    return origin if origin is not None and origin.dtype == target.dtype == ir.DataType.FLOAT else None


def _name_fp32_side(cast: ir.Node) -> None:
    """Give the fp32 value its name back where the library passed it on to the fp16 copy."""
    import onnx_ir as ir

    value, target = cast.inputs[0], cast.outputs[0]
    if value is None or value.name != f"{target.name}_cast_to_fp16" or target.dtype != ir.DataType.FLOAT16:
        return
    name = target.name
    target.name = f"{name}/fp16"
    value.name = name
