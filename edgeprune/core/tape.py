"""Write nodes into a graph: the one way in which edgeprune adds operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.graph import constant_of, static_shape
from edgeprune.core.shapes import infer_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence


class Tape:
    """Appends nodes before a given node, names them, and gives every result its type and static shape.

    Args:
        model: the model to write into.
        before: the node before which everything is written, in order.
        prefix: first part of all names, `edgeprune/<what>/<block>`.
    """

    def __init__(self, model: ir.Model, *, before: ir.Node | None, prefix: str) -> None:
        self.model = model
        self.prefix = prefix
        self._before = before
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._written: dict[str, tuple[ir.Value, ...]] = {}

    def op(self, op_type: str, *inputs: ir.Value | None, name: str = "", **attributes: object) -> ir.Value:
        """Write a node with one output."""
        return self.ops(op_type, *inputs, outputs=1, name=name, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: ir.Value | None, outputs: int, name: str = "", **attributes: object
    ) -> tuple[ir.Value, ...]:
        """Write a node with several outputs; what this tape wrote already is not written again."""
        key = f"{op_type} {[id(v) for v in inputs]} {outputs} {sorted((k, str(v)) for k, v in attributes.items())}"
        if key not in self._written:
            self._written[key] = self._write(op_type, inputs, outputs, name, attributes)
        return self._written[key]

    def _write(
        self, op_type: str, inputs: Sequence[ir.Value | None], outputs: int, name: str, attributes: dict[str, object]
    ) -> tuple[ir.Value, ...]:
        label = self._fresh(name or op_type)
        names = [label if outputs == 1 else f"{label}_{i}" for i in range(outputs)]
        node = ir.node(
            op_type,
            list(inputs),
            attributes=attributes,  # type: ignore[arg-type]
            outputs=[ir.Value(name=n) for n in names],
            name=label,
        )
        if self._before is None:
            self.model.graph.append(node)
        else:
            self.model.graph.insert_before(self._before, node)
        infer_shapes(node, self.model.opset_imports.get("", 17))
        return tuple(node.outputs)

    def constant(self, array: np.ndarray, name: str = "constant") -> ir.Value:
        """An initializer; equal constants of one tape are written once."""
        array = np.asarray(array, order="C")
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = add_initializer(self.model, array, self._fresh(name))
        return self._constants[key]

    def ints(self, values: Sequence[int]) -> ir.Value:
        """An int64 vector."""
        return self.constant(np.asarray(values, dtype=np.int64))

    def scalar(self, value: float) -> ir.Value:
        """An fp32 scalar."""
        return self.constant(np.asarray(value, dtype=np.float32))

    def reduce(self, op_type: str, value: ir.Value, axis: int | tuple[int, ...], *, keepdims: bool = False) -> ir.Value:
        """A reduction over one axis or several; `axes` is an attribute in old opsets, an input in new ones."""
        axes = [axis] if isinstance(axis, int) else list(axis)
        opset = self.model.opset_imports.get("", 17)
        if opset >= (13 if op_type == "ReduceSum" else 18):
            return self.op(op_type, value, self.ints(axes), keepdims=int(keepdims))
        return self.op(op_type, value, axes=axes, keepdims=int(keepdims))

    def slice(self, value: ir.Value, axis: int, start: int, stop: int, *, name: str = "Slice") -> ir.Value:
        """Positions `start` to `stop` of one axis; the value itself if that is all of it."""
        if (start, stop) == (0, self.shape(value)[axis]):
            return value
        return self.op("Slice", value, self.ints([start]), self.ints([stop]), self.ints([axis]), name=name)

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Static shape of a value on the tape."""
        shape = static_shape(value)
        assert shape is not None, f"{value.name} has no static shape"
        return shape

    def _fresh(self, name: str) -> str:
        return fresh_name(self.model, f"{self.prefix}/{name}")


def fresh_name(model: ir.Model, name: str) -> str:
    """The name, or the name with the first free number behind it."""
    taken: set[str] = model.meta.setdefault("edgeprune.names", set()) or _names(model)
    model.meta["edgeprune.names"] = taken
    candidate, number = name, 1
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate


def _names(model: ir.Model) -> set[str]:
    names = {str(value.name) for value in (*model.graph.inputs, *model.graph.initializers.values())}
    for node in model.graph:
        names.add(str(node.name))
        names.update(str(value.name) for value in node.outputs)
    return names


def add_initializer(model: ir.Model, array: np.ndarray, name: str) -> ir.Value:
    """Register a constant as an initializer of the graph."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def clone_constant(model: ir.Model, value: ir.Value, array: np.ndarray) -> ir.Value:
    """A new initializer with `array`; the old one may be shared with other nodes and stays as it is."""
    assert constant_of(value) is not None, f"{value.name} is no constant"
    return add_initializer(model, array, fresh_name(model, f"{value.name}/edgeprune"))
