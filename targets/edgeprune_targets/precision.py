"""A strongly typed fp16 graph: inputs and outputs stay fp32, scores and delicate reductions compute in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.errors import PassError, TargetError
from edgeprune_targets.fp32_rules import MASK, constant_of, fp32_nodes, is_mask_constant

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_LARGE = 1024  # elements from which an initializer is a weight and no scalar or shape


def to_fp16(
    model: ir.Model, *, keep_fp32: Callable[[ir.Node], bool] | None = None, fp32_products: bool = True
) -> ir.Model:
    """Return a fp16 copy of `model`; types are explicit, as a strongly typed engine needs them.

    Args:
        model: static shapes; left as it is.
        keep_fp32: nodes that compute in fp32 besides those of `edgeprune_targets.fp32_rules`.
        fp32_products: whether scores may use matrix products in fp32; `Target.fp32_products` says where they may.
            Without, such a product is rounded once to fp16, and near-equal tokens may be chosen differently.

    Raises:
        TargetError: if the graph has a subgraph that reads floats from outside, or an untyped value.
        PassError: if the typed graph contradicts itself (a bug of ours).
    """
    import onnx_ir as ir

    from edgeprune_targets.builders.half import convert_to_half

    copy = model.clone()
    _prepare(copy)
    kept = fp32_nodes(copy, keep_fp32, products=fp32_products)
    _check_subgraphs(kept)
    _soften_masks(copy, kept)
    _split_shared_constants(copy, kept)
    _check_types(copy)
    source = _without_weights(copy)
    weights = _set_weights_aside(copy, kept)
    typed = convert_to_half(ir.to_proto(copy), [node.name for node in kept if node.name])
    _put_weights_back(typed, weights)
    typed.producer_name, typed.producer_version = model.producer_name, model.producer_version
    _check_typed(source, _without_weights(typed))
    return typed


def _set_weights_aside(model: ir.Model, kept: set[ir.Node]) -> dict[str, ir.TensorProtocol]:
    """Type the large initializers here and leave stand-ins: the library copies each tensor several times.

    Initializers must not be shared by fp32 and fp16 nodes.
    """
    import onnx_ir as ir

    weights: dict[str, ir.TensorProtocol] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or value.dtype != ir.DataType.FLOAT:
            continue
        if tensor.size < _LARGE:
            value.const_value = ir.tensor(
                tensor.numpy(), name=name
            )  # out of an external file, which a proto only names
            continue
        high = all(use.node in kept for use in value.uses())
        weights[name] = tensor if high else ir.tensor(tensor.numpy().astype(np.float16), name=name)
        value.const_value = ir.tensor(np.zeros(1, np.float32), name=name)
    return weights


def _put_weights_back(model: ir.Model, weights: dict[str, ir.TensorProtocol]) -> None:
    import onnx_ir as ir

    for name, tensor in weights.items():
        value = model.graph.initializers[name]
        if value.dtype != tensor.dtype:
            msg = f"the fp16 graph reads the weight {name!r} as {value.dtype}, expected {tensor.dtype}"
            raise PassError(msg, hint="use `--precision fp32`, and report this model")
        value.const_value, value.shape = tensor, ir.Shape(tensor.shape.numpy())


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """The graph with its large initializers as inputs: enough for a check of types, and small."""
    import onnx_ir as ir

    copy = model.clone()
    for name, value in tuple(copy.graph.initializers.items()):
        if value.const_value is not None and value.const_value.size >= _LARGE:
            del copy.graph.initializers[name]
            value.const_value = None
            copy.graph.inputs.append(value)
    return ir.to_proto(copy)


def _prepare(model: ir.Model) -> None:
    """Constants become initializers in memory, every node gets a name of its own, every value a type."""
    import onnx_ir as ir
    from onnx_ir.passes import common

    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and (tensor.size < _LARGE or tensor.dtype != ir.DataType.FLOAT):
            value.const_value = ir.tensor(tensor.numpy(), name=value.name)  # a proto would only name its file
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    name_nodes(model)
    if any(value.dtype is None for node in model.graph for value in node.outputs):
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)


def name_nodes(model: ir.Model) -> None:
    """Give every node of the main graph a name of its own."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}#{number}"
        taken.add(node.name)


def _check_subgraphs(kept: set[ir.Node]) -> None:
    for node in kept:
        for attribute in node.attributes.values():
            if attribute.type.name not in {"GRAPH", "GRAPHS"}:
                continue
            graphs = (attribute.as_graph(),) if attribute.type.name == "GRAPH" else tuple(attribute.as_graphs())
            if any(_reads_outside(graph) for graph in graphs):
                msg = f"fp16 is not possible: the {node.op_type} {node.name!r} reads values from outside its subgraph"
                raise TargetError(msg, hint="use `--precision fp32`")


def _reads_outside(graph: ir.Graph) -> bool:
    inside = {id(value) for node in graph for value in node.outputs}
    inside |= {id(value) for value in (*graph.inputs, *graph.initializers.values())}
    return any(value is not None and id(value) not in inside for node in graph for value in node.inputs)


def _soften_masks(model: ir.Model, kept: set[ir.Node]) -> None:
    """Cut sentinels like -3.4e38, which only have to vanish under Softmax, to what fp16 can add up."""
    import onnx_ir as ir

    for value in tuple(model.graph.initializers.values()):
        array = constant_of(value)
        if array is None or not is_mask_constant(value) or all(use.node in kept for use in value.uses()):
            continue
        soft = np.where(np.isfinite(array), np.clip(array, -MASK, MASK), array)
        value.const_value = ir.tensor(soft.astype(array.dtype), name=value.name)


def _split_shared_constants(model: ir.Model, kept: set[ir.Node]) -> None:
    """Give fp32 nodes a copy of what they share with fp16 nodes: it keeps its digits, and the types stay clear."""
    import onnx_ir as ir

    for value in tuple(model.graph.initializers.values()):
        uses = tuple(value.uses())
        high = [use for use in uses if use.node in kept]
        if constant_of(value) is None or not high or len(high) == len(uses):
            continue
        twin = ir.Value(name=f"{value.name}/fp32", type=value.type, shape=value.shape, const_value=value.const_value)
        model.graph.register_initializer(twin)
        for node, index in high:
            node.replace_input_with(index, twin)


def _check_types(model: ir.Model) -> None:
    for node in model.graph:
        for value in node.outputs:
            if value.dtype is None and value.name:
                msg = f"fp16 is not possible: the type of {value.name!r} from {node.op_type} {node.name!r} is unknown"
                raise TargetError(msg, hint="use `--precision fp32`")


def _check_typed(source: onnx.ModelProto, typed: onnx.ModelProto) -> None:
    complaint = _complaint(typed)
    if complaint is None:
        return
    if own := _complaint(source):
        msg = f"fp16 is not possible: the source graph is not well typed: {own}"
        raise TargetError(msg, hint="use `--precision fp32`, or export the model again")
    msg = f"the fp16 graph is not well typed: {complaint}"
    raise PassError(msg, hint="use `--precision fp32`, and report this model")


def _complaint(proto: onnx.ModelProto) -> str | None:
    import onnx

    try:
        onnx.checker.check_model(proto)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return " ".join(str(error).split())[:300]
    return None
