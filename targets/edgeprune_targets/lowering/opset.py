"""One opset for all runtimes: 17, which TensorRT 8.5 to 11 and TensorRT-RTX all read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import onnx
import onnx_ir as ir

from edgeprune.core.graph import constant_of, static_shape
from edgeprune_targets.lowering._rewrite import int_of, tape_before, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMON_OPSET, COMMON_IR = 17, 8
_REDUCTIONS = tuple(f"Reduce{word}" for word in "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare".split())
_MODES = {"linear": "bilinear", "cubic": "bicubic"}  # GridSample's words before opset 20

_Change: TypeAlias = Callable[[ir.Model, ir.Node], None]


def to_common_opset(model: ir.Model) -> int:
    """Bring the graph to opset 17 and IR 8, all of it or nothing; the number of nodes that changed their form.

    A node that opset 17 cannot say leaves the graph at its own opset, which newer runtimes read as well.
    """
    opset = model.opset_imports.get("", COMMON_OPSET)
    nodes = [node for node in model.graph.all_nodes() if node.domain == ""]
    drafts = [(node, _older(node, inner=node.graph is not model.graph)) for node in nodes]
    if any(not _says(node, draft) for node, draft in drafts):
        return 0
    changed = 0
    for node, draft in drafts:
        if draft is not None:
            draft(model, node)
            changed += 1
    model.opset_imports[""] = COMMON_OPSET
    model.ir_version = COMMON_IR
    return changed + (opset != COMMON_OPSET)


def _says(node: ir.Node, draft: _Change | None) -> bool:
    """Whether opset 17 has the operator, with these types, inputs and attributes."""
    try:
        schema = onnx.defs.get_schema(node.op_type, COMMON_OPSET, node.domain)
    except onnx.defs.SchemaError:
        return False
    if node.op_type == "Pad" and text_of(node, "mode", "constant") == "wrap":
        return False
    if draft is not None:
        return True
    extra = [name for name in node.attributes if name not in schema.attributes]
    return not extra and len(node.inputs) <= schema.max_input and _types_fit(node, schema)


def _types_fit(node: ir.Node, schema: onnx.defs.OpSchema) -> bool:
    for i, value in enumerate(node.inputs):
        formal = schema.inputs[min(i, len(schema.inputs) - 1)]
        if value is not None and value.dtype is not None and f"tensor({_word(value.dtype)})" not in formal.types:
            return False
    return True


def _word(dtype: ir.DataType) -> str:
    return {"float32": "float", "float64": "double"}.get(name := dtype.name.lower(), name)


def _older(node: ir.Node, *, inner: bool) -> _Change | None:
    """How the node is said in opset 17; None where it needs no change, or none is known.

    Inner nodes, of a Loop or an If, get no new constants.
    """
    return next(_changes(node, inner=inner), None)


def _changes(node: ir.Node, *, inner: bool) -> Iterator[_Change]:
    kind = node.op_type
    if kind in _REDUCTIONS and len(node.inputs) > 1 and _is_constant(node.inputs[1]):
        yield _axes_to_attribute
    if kind == "Split" and not inner and "num_outputs" in node.attributes and _sizes(node):
        yield _name_sizes
    if kind == "Pad" and not inner and len(node.inputs) > 3 and _pads(node) is not None:
        yield _pad_all_axes
    if kind == "GridSample" and text_of(node, "mode", "linear") in _MODES:
        yield _rename_mode
    if kind in {"Cast", "CastLike", "Reshape", "Resize", "AveragePool"} and _has_idle(node):
        yield _drop_idle


def _axes_to_attribute(model: ir.Model, node: ir.Node) -> None:
    del model
    axes = constant_of(node.inputs[1])
    node.resize_inputs(1)
    empty = bool(int_of(node, "noop_with_empty_axes", 0))
    node.attributes.pop("noop_with_empty_axes", None)
    if axes is not None and axes.size:
        node.attributes["axes"] = ir.AttrInt64s("axes", [int(axis) for axis in axes.reshape(-1)])
    elif empty:
        node.op_type = "Identity"
        node.attributes.pop("keepdims", None)


def _is_constant(value: ir.Value | None) -> bool:
    return value is None or constant_of(value) is not None


def _sizes(node: ir.Node) -> list[int]:
    """Lengths of the parts along the split axis; empty where unknown."""
    shapes = [static_shape(value) for value in node.outputs]
    axis = int_of(node, "axis", 0)
    return [shape[axis] for shape in shapes if shape] if all(shapes) else []


def _name_sizes(model: ir.Model, node: ir.Node) -> None:
    sizes = _sizes(node)
    del node.attributes["num_outputs"]
    node.resize_inputs(2)
    node.replace_input_with(1, tape_before(model, node).ints(sizes))


def _pads(node: ir.Node) -> list[int] | None:
    """Begin and end of every axis, from those of the named ones."""
    amounts, axes = constant_of(node.inputs[1]), constant_of(node.inputs[3])
    shape = static_shape(node.inputs[0]) if node.inputs[0] is not None else None
    if amounts is None or axes is None or shape is None:
        return None
    rank, named = len(shape), len(axes)
    pads = [0] * (2 * rank)
    for i, axis in enumerate(axes.reshape(-1)):
        pads[int(axis) % rank] = int(amounts[i])
        pads[int(axis) % rank + rank] = int(amounts[i + named])
    return pads


def _pad_all_axes(model: ir.Model, node: ir.Node) -> None:
    pads = _pads(node)
    assert pads is not None
    node.resize_inputs(3)
    node.replace_input_with(1, tape_before(model, node).ints(pads))


def _rename_mode(model: ir.Model, node: ir.Node) -> None:
    del model
    node.attributes["mode"] = ir.AttrString("mode", _MODES[text_of(node, "mode", "linear")])


def _no_zero(node: ir.Node) -> bool:
    shape = constant_of(node.inputs[1])
    return shape is not None and bool((shape != 0).all())


_IDLE: dict[str, Callable[[ir.Node], bool]] = {
    "saturate": lambda _: True,  # of casts to float8, which opset 17 has not
    "round_mode": lambda _: True,
    "antialias": lambda node: not int_of(node, "antialias", 0),
    "keep_aspect_ratio_policy": lambda node: text_of(node, "keep_aspect_ratio_policy", "stretch") == "stretch",
    "allowzero": _no_zero,
    "dilations": lambda node: node.op_type == "AveragePool" and set(node.attributes["dilations"].as_ints()) == {1},
}


def _has_idle(node: ir.Node) -> bool:
    """Whether there are attributes that say nothing here, and no others that opset 17 has not."""
    schema = onnx.defs.get_schema(node.op_type, COMMON_OPSET, node.domain)
    idle = {name for name in node.attributes if name in _IDLE and _IDLE[name](node)}
    return bool(idle) and not {name for name in node.attributes if name not in schema.attributes} - idle


def _drop_idle(model: ir.Model, node: ir.Node) -> None:
    del model
    for name in [name for name in node.attributes if name in _IDLE and _IDLE[name](node)]:
        del node.attributes[name]
