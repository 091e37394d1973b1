"""ONNX's own Scan: a body that runs once a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.graph import static_shape
from edgeprune_passes.scans._body import Body, Stacked, new_tape, raise_body
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._edit import above_identity
from edgeprune_passes.scans._flips import flipped

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.tape import Tape


def raise_scan(model: ir.Model, node: ir.Node) -> ir.Node:
    """Write a selective scan instead of a Scan.

    Raises:
        DeclinedError: in what it is none.
    """
    body = node.attributes["body"].as_graph()
    count = node.attributes["num_scan_inputs"].as_int()
    states = len(node.inputs) - count
    if states != 1:
        raise DeclinedError(node, f"the Scan has {states} states, a selective scan has one")
    tape = new_tape(model, node)
    sources = [value for value in node.inputs[1:] if value is not None]
    bulk, tokens = _bulk(tape, node, body, sources)
    directions = _ints(node, "scan_input_directions")
    backwards = bool(directions) and all(directions)
    axes = _ints(node, "scan_output_axes") or [0] * len(body.outputs)
    behind = _ints(node, "scan_output_directions") or [0] * len(body.outputs)
    stacked = tuple(
        Stacked(above_identity(inner), outer, axis, flipped=bool(back) != backwards)
        for inner, outer, axis, back in zip(body.outputs[1:], node.outputs[1:], axes, behind, strict=False)
    )
    initial = node.inputs[0]
    assert initial is not None
    found = Body(
        node=node,
        graph=body,
        before=body.inputs[0],
        after=body.outputs[0],
        initial=initial,
        final=node.outputs[0],
        stacked=stacked,
        tokens=tokens,
        backwards=backwards,
    )
    return raise_body(model, found, tape, bulk)


def _bulk(tape: Tape, node: ir.Node, body: ir.Graph, sources: list[ir.Value]) -> tuple[dict[ir.Value, ir.Value], int]:
    # What each scan input of the body is for all tokens, tokens in front, and in their order. Where all are read from
    # the last token on, they stay as they are: what the scan is raised to is told.
    axes = _ints(node, "scan_input_axes") or [0] * len(sources)
    backwards = _ints(node, "scan_input_directions") or [0] * len(sources)
    backwards = [0] * len(sources) if all(backwards) else backwards
    bulk: dict[ir.Value, ir.Value] = {}
    tokens = 0
    for inner, source, axis, back in zip(body.inputs[1:], sources, axes, backwards, strict=True):
        shape = static_shape(source)
        if shape is None:
            raise DeclinedError(node, f"`{source.name}` has no static shape")
        own = axis % len(shape)
        tokens = shape[own]
        value = flipped(tape, source, own) if back else source
        perm = [own, *(i for i in range(len(shape)) if i != own)]
        bulk[inner] = value if own == 0 else tape.op("Transpose", value, perm=perm)
    return bulk, tokens


def _ints(node: ir.Node, name: str) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else []
