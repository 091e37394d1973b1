"""TopK of whole numbers as a TopK of floats: TensorRT 8.5 takes no others, and 8.6 computes them so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeprune.core.graph import name_of
from edgeprune.core.tape import Tape
from edgeprune_targets.lowering._rewrite import nodes_of, replace, tape_before

if TYPE_CHECKING:
    from collections.abc import Iterator


def sort_as_floats(model: ir.Model) -> int:
    """Cast the data of integer TopK nodes to fp32 and the sorted numbers back; exact below 2^24, as indices are."""
    nodes = list(_integer_sorts(model))
    for node in nodes:
        data, size = node.inputs
        assert data is not None
        assert data.dtype is not None
        tape = tape_before(model, node)
        floats = tape.op("Cast", data, to=ir.DataType.FLOAT.value)
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        best, index = tape.ops("TopK", floats, size, outputs=2, **attributes)
        ir.convenience.replace_all_uses_with(node.outputs[1], index, replace_graph_outputs=True)
        back = Tape(model, before=node, prefix=name_of(node)).op("Cast", best, to=data.dtype.value)
        replace(model, node, back)
    return len(nodes)


def _integer_sorts(model: ir.Model) -> Iterator[ir.Node]:
    for node in nodes_of(model, "TopK"):
        data = node.inputs[0]
        if data is not None and data.dtype is not None and data.dtype.is_integer() and not _is_output(node):
            yield node


def _is_output(node: ir.Node) -> bool:
    """Whether the indices leave the graph under their own name."""
    return node.outputs[1].is_graph_output()
