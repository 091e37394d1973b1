"""ONNX's Loop over tokens, written as a Scan: what it reads by the number of the step comes in a token at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common

from edgeprune.core.graph import PREFIX, constant_of, name_of
from edgeprune.core.tape import fresh_name
from edgeprune_passes.scans._carried import Carried, Gathered, gathered
from edgeprune_passes.scans._counting import count_steps
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._edit import above_identity, let_go, replace_value
from edgeprune_passes.scans._step_copy import StepCopy
from edgeprune_passes.scans._window import windowed

if TYPE_CHECKING:
    from edgeprune.core.refusals import Refusal

# A loop of more steps than any sequence that is run on a device has is no loop over tokens.
_MOST_STEPS = 1 << 16


def roll_loops(model: ir.Model) -> tuple[int, list[Refusal]]:
    """Rewrite every Loop that runs over tokens; how many, and why others were left."""
    loops = [node for node in model.graph if node.op_type == "Loop" and node.domain == ""]
    refusals = [refusal for node in loops if (refusal := _tried(model, node)) is not None]
    if len(refusals) < len(loops):
        common.RemoveUnusedNodesPass()(model)
        model.graph.sort()
    return len(loops) - len(refusals), refusals


def _tried(model: ir.Model, node: ir.Node) -> Refusal | None:
    try:
        _write(model, node)
    except DeclinedError as declined:
        return declined.refusal
    let_go(node)
    return None


def _write(model: ir.Model, node: ir.Node) -> None:
    body = node.attributes["body"].as_graph()
    carried = _carried(node, body)
    fixed = {one.before: one.initial for one in carried if one.is_fixed}
    moving = [one for one in carried if not one.is_fixed]
    counters = [one for one in moving if one.is_counter]
    lists = {one: found for one in moving if one not in counters and (found := gathered(one)) is not None}
    states = [one for one in moving if one not in counters and one not in lists]
    if not states:
        raise DeclinedError(node, "the loop carries no state")
    numbers = count_steps(body.inputs[0], counters, _steps(node, body))
    copy = StepCopy(model, node, fresh_name(model, f"{PREFIX}loop"), fixed, numbers)
    every = [*lists.values(), *_scanned(node, body, len(carried))]
    before = [copy.state(one.before) for one in states]
    after = [copy.of(one.after) for one in states]
    collected = [copy.output(found.inner, found.axis if found.keeps else None) for found in every]
    sources = [windowed(model, reads, node, copy.prefix) for reads in copy.reads.values()]
    graph = ir.Graph([*before, *copy.reads], [*after, *collected], nodes=copy.nodes, name=f"{copy.prefix}/body")
    scan = ir.node(
        "Scan",
        [*(one.initial for one in states), *(value for value, _ in sources)],
        attributes={
            "body": graph,
            "num_scan_inputs": len(sources),
            "scan_input_axes": [reads[0].axis for reads in copy.reads.values()],
            "scan_input_directions": [int(backwards) for _, backwards in sources],
            "scan_output_axes": [found.axis for found in every],
            "scan_output_directions": [int(found.backwards) for found in every],
        },
        num_outputs=len(states) + len(every),
        name=copy.prefix,
    )
    model.graph.insert_before(node, scan)
    _connect(scan, states, every)
    for one in carried:
        if one.is_fixed:
            replace_value(one.final, one.initial)


def _carried(node: ir.Node, body: ir.Graph) -> list[Carried]:
    initial = [value for value in node.inputs[2:] if value is not None]
    return [
        Carried(before, after, start, final)
        for before, after, start, final in zip(body.inputs[2:], body.outputs[1:], initial, node.outputs, strict=False)
    ]


def _scanned(node: ir.Node, body: ir.Graph, carried: int) -> list[Gathered]:
    pairs = zip(body.outputs[1 + carried :], node.outputs[carried:], strict=True)
    return [Gathered(inner, outer, 0, keeps=False) for inner, outer in pairs]


def _steps(node: ir.Node, body: ir.Graph) -> int:
    # Known before it runs: a literal count, and a condition that stays true.
    trips = constant_of(node.inputs[0])
    if trips is None:
        raise DeclinedError(node, "the number of steps of the loop is not known before it runs")
    going = above_identity(body.outputs[0])
    start = constant_of(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    entered = len(node.inputs) < 2 or node.inputs[1] is None or (start is not None and bool(start.all()))
    said = constant_of(going)
    if not entered or not (going is body.inputs[1] or (said is not None and bool(said.all()))):
        raise DeclinedError(node, "the loop may stop before its last step")
    count = int(trips.reshape(()))
    if not 1 < count <= _MOST_STEPS:
        raise DeclinedError(node, f"the loop has {count} steps, which is no number of tokens")
    return count


def _connect(scan: ir.Node, states: list[Carried], every: list[Gathered]) -> None:
    olds = [*(one.final for one in states), *(found.result for found in every)]
    for index, (new, old) in enumerate(zip(scan.outputs, olds, strict=True)):
        new.name, new.type, new.shape = f"{name_of(scan)}/{index}", old.type, old.shape
        replace_value(old, new)
