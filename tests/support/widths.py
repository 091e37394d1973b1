"""Cut widths at random and zero the same units in the dense graph: two graphs that must agree."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edgeprune.core.linear import Linear
from edgeprune.core.plan import WidthCut, WidthKind
from edgeprune.core.recognition import recognize
from edgeprune.core.tape import clone_constant
from edgeprune.core.widths.find import find_widths
from edgeprune.core.widths.groups import WidthGroup, Widths
from edgeprune_passes.remove_channels import RemoveChannels


def widths_of(model: ir.Model) -> Widths:
    """The width groups of a graph in canonical form."""
    return find_widths(model, recognize(model))


def chosen(model: ir.Model, kind: WidthKind, share: float = 0.6, seed: int = 0) -> dict[str, np.ndarray]:
    """A random choice of units of every group of a kind, as a file of widths holds it."""
    rng = np.random.default_rng(seed)
    groups = widths_of(model).of(kind)
    counts = {group.name: max(1, round(share * group.size)) for group in groups}
    return {f"{g.name}/kept": np.sort(rng.permutation(g.size)[: counts[g.name]]) for g in groups}


def cuts_of(model: ir.Model, arrays: dict[str, np.ndarray]) -> tuple[WidthCut, ...]:
    """The cuts of a plan that go with a choice."""
    groups = [group for group in widths_of(model).groups if f"{group.name}/kept" in arrays]
    return tuple(
        WidthCut(kind=g.kind, block=g.block, number=g.number, keep=len(arrays[f"{g.name}/kept"]), of=g.size)
        for g in groups
    )


def removed(model: ir.Model, arrays: dict[str, np.ndarray]) -> ir.Model:
    """A copy with all but the chosen units taken out."""
    narrow = model.clone()
    RemoveChannels(cuts_of(model, arrays), arrays).apply(narrow)
    return narrow


def zeroed(model: ir.Model, arrays: dict[str, np.ndarray]) -> ir.Model:
    """A copy in which the weights that read the other units are zero: rows of consumers, and columns of Q and K."""
    dense = model.clone()
    for group in widths_of(dense).groups:
        kept = arrays.get(f"{group.name}/kept")
        if kept is None:
            continue
        gone = ~group.mask(kept)
        rows = gone[group.rows]
        _zero(dense, group.consumer, np.broadcast_to(rows[:, None], group.consumer.weight.shape))
        if group.kind == "head-size":
            _zero_coordinates(dense, group, gone)
    return dense


def _zero_coordinates(model: ir.Model, group: WidthGroup, gone: np.ndarray) -> None:
    assert group.layout is not None
    for part in (group.layout.query, group.layout.key):
        columns = np.zeros(part.linear.weight.shape[1], bool)
        columns[part.columns[:, gone]] = True
        _zero(model, part.linear, np.broadcast_to(columns, part.linear.weight.shape))
        bias = np.where(columns, 0, part.linear.bias)
        holder, index = part.linear.adder or part.linear.node, part.linear.bias_index
        if index is not None:
            holder.replace_input_with(index, clone_constant(model, holder.inputs[index], bias))


def _zero(model: ir.Model, linear: Linear, where: np.ndarray) -> None:
    weight = np.where(where, 0, linear.weight).astype(linear.weight.dtype)
    array = np.ascontiguousarray(weight.T if linear.transposed else weight)
    linear.node.replace_input_with(1, clone_constant(model, linear.node.inputs[1], array))


def parsed(text: str) -> ir.Model:
    """A graph from text; all inputs but the first become random weights."""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(1)
    for value in list(proto.graph.input)[1:]:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = rng.standard_normal(shape).astype(np.float32) * 0.5
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        proto.graph.input.remove(value)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
