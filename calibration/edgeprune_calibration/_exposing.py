"""What a proof asks of a graph: inner values as outputs, their shapes, and what is constant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgeprune.core.errors import ValidationError
from edgeprune.core.graph import constant_of, name_of, static_shape
from edgeprune_calibration._compared import Shapes
from edgeprune_calibration.data import Feed
from edgeprune_calibration.runner import Runner

if TYPE_CHECKING:
    import onnx_ir as ir


def constants_of(model: ir.Model, names: Iterable[str]) -> Feed:
    """The values among some names that are initializers."""
    found = {name: constant_of(model.graph.initializers.get(name)) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def find_value(model: ir.Model, name: str) -> ir.Value:
    """The value of a name that a node computes.

    Raises:
        ValidationError: if there is none.
    """
    for node in model.graph:
        for value in node.outputs:
            if value.name == name:
                return value
    msg = f"the graph has no value `{name}`"
    raise ValidationError(msg, hint="name a value that a node computes")


def expose(model: ir.Model, names: Iterable[str]) -> None:
    """Make inner values graph outputs."""
    known = {value.name for value in model.graph.outputs}
    for name in dict.fromkeys(names):
        if name not in known:
            model.graph.outputs.append(find_value(model, name))


def exposed(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy with inner values as further outputs."""
    copy = model.clone()
    expose(copy, names)
    return copy


def shapes_of(model: ir.Model, feed: Feed) -> Shapes:
    """Shape of every value that a node computes; what the graph does not say is asked of the runtime."""
    values = [value for node in model.graph for value in node.outputs if value.name]
    said = {name_of(value): static_shape(value) for value in values}
    unknown = [name for name, shape in said.items() if shape is None]
    found = {name: shape for name, shape in said.items() if shape is not None}
    if unknown:
        arrays = Runner(exposed(model, unknown)).run(feed, unknown)
        found |= {name: array.shape for name, array in arrays.items()}
    return found
