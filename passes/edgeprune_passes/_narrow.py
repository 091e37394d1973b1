"""Write a width group narrower: its weights, its literals, the shapes of its values, and weights solved anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.errors import PlanError
from edgeprune.core.graph import PREFIX, consumers, static_shape
from edgeprune.core.tape import Tape, add_initializer, clone_constant, fresh_name
from edgeprune.core.widths.units import kept_by_axis, sizes_of

if TYPE_CHECKING:
    from edgeprune.core.linear import Linear
    from edgeprune.core.widths.arrays import Arrays
    from edgeprune.core.widths.groups import WidthGroup
    from edgeprune.core.widths.units import Kept


def narrow(model: ir.Model, group: WidthGroup, kept: Kept) -> None:
    """Remove all units of a group that do not stay. Shared constants are cloned."""
    whole = np.ones(group.size, bool)
    for edit in group.edits:
        new = edit.remake(kept)
        if np.array_equal(new, edit.remake(whole)):
            continue
        old = edit.node.inputs[edit.index]
        assert old is not None
        edit.node.replace_input_with(edit.index, clone_constant(model, old, new))
        if edit.node.op_type == "Conv" and edit.index == 1:  # one kernel a channel: as many groups as channels stay
            edit.node.attributes["group"] = ir.AttrInt64("group", len(new))
    for value, units in group.values.items():
        shape = static_shape(value)
        masks = kept_by_axis(units, shape, kept) if shape is not None else None
        assert masks is not None, f"what stays of {value.name} is no box"
        value.shape = ir.Shape(sizes_of(masks))


def put_solved(model: ir.Model, group: WidthGroup, arrays: Arrays) -> None:
    """Replace weights and biases of a narrowed group by those that were solved for it.

    Raises:
        PlanError: if one has another shape than what it replaces.
    """
    for role, linear in roles(group):
        weight, bias = arrays.get(f"{group.name}/{role}.weight"), arrays.get(f"{group.name}/{role}.bias")
        if weight is not None:
            _check(f"{group.name}/{role}.weight", weight.shape, linear.weight.shape)
            _set_weight(model, linear, weight)
        if bias is not None:
            _check(f"{group.name}/{role}.bias", bias.shape, (linear.weight.shape[1],))
            put_bias(model, linear, bias)


def roles(group: WidthGroup) -> list[tuple[str, Linear]]:
    """The projections of a group by the names that they have in a file of widths."""
    made = [(f"producer{i}", linear) for i, linear in enumerate(group.producers)]
    beside = [(f"beside{i}", linear) for i, linear in enumerate(group.beside)]
    return [*made, *beside, ("consumer", group.consumer)]


def _check(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        msg = f"`{name}` is {list(found)} in the file of widths, the model needs {list(expected)}"
        raise PlanError(msg, hint="keep plan.json and the widths.npz that was written with it together")


def _set_weight(model: ir.Model, linear: Linear, array: np.ndarray) -> None:
    old = linear.node.inputs[1]
    assert old is not None
    laid = array.T if linear.transposed else array
    new = np.ascontiguousarray(laid.astype(linear.weight.dtype))
    linear.node.replace_input_with(1, clone_constant(model, old, new))


def put_bias(model: ir.Model, linear: Linear, array: np.ndarray) -> None:
    """Write the bias where it stands, or give the product one."""
    holder, array = linear.adder or linear.node, array.astype(linear.weight.dtype)
    if linear.bias_index is not None:
        old = holder.inputs[linear.bias_index]
        assert old is not None
        holder.replace_input_with(
            linear.bias_index, clone_constant(model, old, array.reshape(static_shape(old) or array.shape))
        )
    elif linear.node.op_type == "Gemm":
        linear.node.resize_inputs(3)
        name = fresh_name(model, f"{PREFIX}width/{linear.node.outputs[0].name}/bias")
        linear.node.replace_input_with(2, add_initializer(model, array, name))
    else:
        _add_bias(model, linear, array)


def _add_bias(model: ir.Model, linear: Linear, array: np.ndarray) -> None:
    """Put an Add behind a product that has none.

    Raises:
        PlanError: if the product is a graph output.
    """
    out = linear.node.outputs[0]
    if out.is_graph_output():
        msg = f"the product `{out.name}` is a graph output and has no bias to fold a mean into"
        raise PlanError(msg, hint="leave this width as it is")
    users = [(node, i) for node in consumers(out) for i, value in enumerate(node.inputs) if value is out]
    nodes = list(model.graph)
    at = nodes.index(linear.node) + 1
    tape = Tape(model, before=nodes[at] if at < len(nodes) else None, prefix=f"{PREFIX}width/{out.name}")
    summed = tape.op("Add", out, tape.constant(array, name="bias"), name="biased")
    for node, index in users:
        node.replace_input_with(index, summed)
