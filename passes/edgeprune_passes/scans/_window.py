"""The part of a sequence that a loop reads, in the order in which it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.graph import static_shape
from edgeprune.core.tape import add_initializer, fresh_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune_passes.scans._reads import Read


def windowed(model: ir.Model, reads: Sequence[Read], before: ir.Node, prefix: str) -> tuple[ir.Value, bool]:
    """What a Scan is to read, and whether it reads it from behind."""
    source, axis = reads[0].source, reads[0].axis
    indices = np.array([read.index for read in reads])
    steps = set(np.diff(indices).tolist())
    if steps == {1} or steps == {-1}:
        first, last = int(indices.min()), int(indices.max())
        shape = static_shape(source)
        if shape is not None and (first, last + 1) == (0, shape[axis]):
            return source, steps == {-1}
        operands = [np.array([number]) for number in (first, last + 1, axis)]
        return _written(model, "Slice", source, operands, before, prefix), steps == {-1}
    return _written(model, "Gather", source, [indices], before, prefix, axis), False


def _written(
    model: ir.Model,
    op_type: str,
    source: ir.Value,
    operands: Sequence[np.ndarray],
    before: ir.Node,
    prefix: str,
    axis: int | None = None,
) -> ir.Value:
    constants = [add_initializer(model, array, fresh_name(model, f"{prefix}/constant")) for array in operands]
    name = fresh_name(model, f"{prefix}/{op_type}")
    attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
    node = ir.Node("", op_type, [source, *constants], attributes, name=name)
    node.outputs[0].name, node.outputs[0].type = name, source.type
    model.graph.insert_before(before, node)
    return node.outputs[0]
