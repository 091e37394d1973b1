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
    shape, last = static_shape(source), int(indices.max())
    if steps not in ({1}, {-1}):
        node = ir.node("Gather", [source, _constant(model, indices, prefix)], attributes={"axis": axis})
    elif shape is not None and (int(indices.min()), last + 1) == (0, shape[axis]):
        return source, steps == {-1}
    else:
        ends = ([int(indices.min())], [last + 1], [axis])
        node = ir.node("Slice", [source, *(_constant(model, np.array(end), prefix) for end in ends)])
    node.name = node.outputs[0].name = fresh_name(model, f"{prefix}/{node.op_type}")
    node.outputs[0].type = source.type
    model.graph.insert_before(before, node)
    return node.outputs[0], steps == {-1}


def _constant(model: ir.Model, array: np.ndarray, prefix: str) -> ir.Value:
    return add_initializer(model, array, fresh_name(model, f"{prefix}/constant"))
