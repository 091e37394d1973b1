"""A recurrence that a tracer wrote one token after the other, rolled up into one ONNX Scan.

It runs before constants are folded: a folder takes minutes for what is thousands of nodes here and a hundred behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common

from edgeprune.core.graph import PREFIX
from edgeprune.core.tape import fresh_name
from edgeprune_passes.scans._chains import Link, find_chains, links
from edgeprune_passes.scans._collect import Collected, find_collected
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._edit import replace_value
from edgeprune_passes.scans._steps import Roller
from edgeprune_passes.scans._window import windowed

if TYPE_CHECKING:
    from edgeprune.core.refusals import Refusal


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """All steps of one recurrence, the first one too."""

    steps: list[Link]

    @property
    def states(self) -> list[ir.Value]:
        return [step.state for step in self.steps]


def roll_up(model: ir.Model) -> tuple[int, list[Refusal]]:
    """Rewrite every unrolled recurrence; how many, and why others were left."""
    refusals: list[Refusal] = []
    rolled = 0
    for chain in find_chains(iter(model.graph)):
        declined = _rolled(model, chain)
        rolled += declined is None
        refusals += [declined] if declined is not None else []
    if rolled:
        common.RemoveUnusedNodesPass()(model)
        model.graph.sort()
    return rolled, refusals


def _rolled(model: ir.Model, chain: list[Link]) -> Refusal | None:
    first = chain[0].before.producer()
    while first is not None and first.op_type != "Add":
        first = first.inputs[0].producer() if first.inputs[0] is not None else None
    assert first is not None, "a chain starts behind an Add"
    reason: Refusal | None = None
    for start in links(first):
        try:
            _write(model, _Run([start, *chain]))
        except DeclinedError as declined:
            reason = reason or declined.refusal
        else:
            return None
    return reason


def _write(model: ir.Model, run: _Run) -> None:
    states = run.states
    collected = find_collected(states, {step.mul for step in run.steps})
    _check_uses(states)
    roller = Roller(fresh_name(model, f"{PREFIX}rolled"), states)
    outputs = _body(roller, run, collected)
    anchor = collected[0].result.producer()
    assert anchor is not None
    sources = [windowed(model, reads, anchor, roller.prefix) for reads in roller.reads.values()]
    body = ir.Graph(
        [roller.before, *roller.reads], [roller.after, *outputs], nodes=roller.nodes, name=f"{roller.prefix}/body"
    )
    scan = ir.node(
        "Scan",
        [run.steps[0].before, *(value for value, _ in sources)],
        attributes={
            "body": body,
            "num_scan_inputs": len(sources),
            "scan_input_axes": [reads[0].axis for reads in roller.reads.values()],
            "scan_input_directions": [int(backwards) for _, backwards in sources],
            "scan_output_axes": [found.axis for found in collected],
            "scan_output_directions": [int(found.backwards) for found in collected],
        },
        num_outputs=1 + len(collected),
        name=roller.prefix,
    )
    model.graph.insert_before(anchor, scan)
    _connect(scan, states, collected, roller.prefix)


def _body(roller: Roller, run: _Run, collected: list[Collected]) -> list[ir.Value]:
    """Write one step, and return what it gives beside the state."""
    like = run.states[1]
    for value in (roller.before, roller.after):
        value.shape, value.type = like.shape, like.type
    decay, added = (roller.roll([getattr(step, name) for step in run.steps]) for name in ("decay", "added"))
    kept = roller.write("Mul", [decay, roller.before], like=like)
    roller.close([kept, added])
    return [_output(roller, found) for found in collected]


def _output(roller: Roller, found: Collected) -> ir.Value:
    value = roller.roll(found.values)
    if not found.keeps:
        return roller.write("Identity", [value], like=value)
    axes = ir.tensor([found.axis], dtype=ir.DataType.INT64, name=f"{roller.prefix}/axis_{len(roller.nodes)}")
    return roller.write("Squeeze", [value, roller.literal(axes)])


def _check_uses(states: list[ir.Value]) -> None:
    """A step whose state is read once more than that of its neighbour is no step of a loop."""
    counts = {len(state.uses()) for state in states[:-1]}
    if len(counts) > 1 or any(state.is_graph_output() for state in states[:-1]):
        raise DeclinedError(states[0], "the state after one token is read more often than after others")


def _connect(scan: ir.Node, states: list[ir.Value], collected: list[Collected], prefix: str) -> None:
    final, *stacked = scan.outputs
    final.name, final.type, final.shape = f"{prefix}/last", states[-1].type, states[-1].shape
    for number, (value, found) in enumerate(zip(stacked, collected, strict=True)):
        value.name, value.type, value.shape = f"{prefix}/y_{number}", found.result.type, found.result.shape
        replace_value(found.result, value)
    if states[-1].is_graph_output() or len(states[-1].uses()) >= len(states[0].uses()):
        replace_value(states[-1], final)
