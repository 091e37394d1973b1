"""Keys transposed in one step: exporters take a detour over three axes, in which matchers lose the heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.graph import consumers, static_shape
from edgeprune_targets.lowering._rewrite import nodes_of, replace, tape_before

if TYPE_CHECKING:
    import onnx_ir as ir

_TURN = (0, 2, 1)


def straighten_keys(model: ir.Model) -> int:
    """Turn Reshape [B,H,T,Dh]->[B*H,T,Dh], Transpose, Reshape->[B,H,Dh,T] into one Transpose; exact."""
    done = 0
    for node in nodes_of(model, "Transpose"):
        ends = _detour(node)
        if ends is not None:
            source, last = ends
            turned = tape_before(model, node).op("Transpose", source, perm=[0, 1, 3, 2])
            replace(model, last, turned)
            for idle in (node, node.inputs[0].producer() if node.inputs[0] is not None else None):
                if idle is not None and not any(value.uses() or value.is_graph_output() for value in idle.outputs):
                    model.graph.remove(idle, safe=True)
            done += 1
    return done


def _detour(node: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """Where the detour begins, and the node that ends it."""
    perm = tuple(node.attributes["perm"].as_ints()) if "perm" in node.attributes else ()
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    after = list(consumers(node.outputs[0]))
    if perm != _TURN or before is None or before.op_type != "Reshape" or len(after) != 1:
        return None
    last, source = after[0], before.inputs[0]
    if last.op_type != "Reshape" or source is None or node.outputs[0].is_graph_output():
        return None
    start, end = static_shape(source), static_shape(last.outputs[0])
    if start is None or end is None or len(start) != 4 or end != (*start[:2], start[3], start[2]):
        return None
    middle = static_shape(before.outputs[0])
    return (source, last) if middle == (start[0] * start[1], *start[2:]) else None
