"""A recurrence that a tracer wrote one token after the other, rolled up into one ONNX Scan.

It runs before constants are folded: a folder takes minutes for what is thousands of nodes here and a hundred behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgeprune.core.graph import PREFIX
from edgeprune.core.tape import fresh_name
from edgeprune_passes.scans._chains import Link, find_chains, links, origin
from edgeprune_passes.scans._collect import Collected, find_collected
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._edit import replace_value
from edgeprune_passes.scans._reads import reads_token
from edgeprune_passes.scans._steps import Roller
from edgeprune_passes.scans._window import windowed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeprune.core.refusals import Refusal


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """All steps of one recurrence.

    Attributes:
        states: h of every step.
        decay: each factor of a, of every step, or of all but the first where that one multiplies nothing.
        added: b of every step.
        initial: h before the first step; None for zero.
        products: a * h.
    """

    states: list[ir.Value]
    decay: list[list[ir.Value]]
    added: list[ir.Value]
    initial: ir.Value | None
    products: set[ir.Node]


def roll_up(model: ir.Model) -> tuple[int, list[Refusal]]:
    """Rewrite every unrolled recurrence; how many, and why others were left."""
    refusals: list[Refusal] = []
    rolled = 0
    for chain in [chain for chain in find_chains(iter(model.graph)) if reads_token(*chain[0].decay, chain[0].added)]:
        declined = _rolled(model, chain)
        rolled += declined is None
        refusals += [declined] if declined is not None else []
    if rolled:
        common.RemoveUnusedNodesPass()(model)
        model.graph.sort()
    return rolled, refusals


def _rolled(model: ir.Model, chain: list[Link]) -> Refusal | None:
    reasons: list[Refusal] = []
    for run in _readings(chain):
        reason = _tried(model, run)
        if reason is None:
            return None
        reasons.append(reason)
    return reasons[0]


def _readings(chain: list[Link]) -> Iterator[_Run]:
    """The ways to read where a chain begins: h_0 = a_0 * start + b_0, or h_0 = b_0."""
    first = origin(chain[0].before)
    made = first.producer()
    deep = len(chain[0].muls)
    starts = [link for link in links(made) if len(link.muls) == deep] if made is not None else []
    for start in starts:
        yield _run([start, *chain], start.before)
    for start in starts:
        yield _run_from(start.before, [start, *chain])
    yield _run_from(first, chain)


def _run(steps: list[Link], initial: ir.Value) -> _Run:
    states, added = [step.state for step in steps], [step.added for step in steps]
    decay = [list(factor) for factor in zip(*(step.decay for step in steps), strict=False)]
    return _Run(states, decay, added, initial, {mul for step in steps for mul in step.muls})


def _run_from(first: ir.Value, steps: list[Link]) -> _Run:
    run = _run(steps, first)
    return _Run([first, *run.states], run.decay, [first, *run.added], None, run.products)


def _tried(model: ir.Model, run: _Run) -> Refusal | None:
    try:
        _write(model, run)
    except DeclinedError as declined:
        return declined.refusal
    return None


def _write(model: ir.Model, run: _Run) -> None:
    states = run.states
    collected = find_collected(states, run.products)
    _check_uses(states)
    roller = Roller(fresh_name(model, f"{PREFIX}rolled"), states, from_zero=run.initial is None)
    outputs = _body(roller, run, collected)
    anchor = collected[0].result.producer()
    assert anchor is not None
    sources = [windowed(model, reads, anchor, roller.prefix) for reads in roller.reads.values()]
    body = ir.Graph(
        [roller.before, *roller.reads], [roller.after, *outputs], nodes=roller.nodes, name=f"{roller.prefix}/body"
    )
    scan = ir.node(
        "Scan",
        [run.initial or _zeros(model, states[0], anchor, roller.prefix), *(value for value, _ in sources)],
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


def _zeros(model: ir.Model, like: ir.Value, before: ir.Node, prefix: str) -> ir.Value:
    shape = ir.node("Shape", [like])
    zeros = ir.node("ConstantOfShape", [shape.outputs[0]], attributes={"value": ir.tensor(np.zeros(1, np.float32))})
    for node in (shape, zeros):
        node.name = node.outputs[0].name = fresh_name(model, f"{prefix}/{node.op_type}")
        model.graph.insert_before(before, node)
    return zeros.outputs[0]


def _body(roller: Roller, run: _Run, collected: list[Collected]) -> list[ir.Value]:
    """Write one step, and return what it gives beside the state."""
    like = run.states[1]
    for value in (roller.before, roller.after):
        value.shape, value.type = like.shape, like.type
    factors, added = [roller.roll(factor) for factor in run.decay], roller.roll(run.added)
    kept = roller.before
    for factor in reversed(factors):
        kept = roller.write("Mul", [factor, kept], like=like)
    roller.close([kept, added])
    return [_output(roller, found) for found in collected]


def _output(roller: Roller, found: Collected) -> ir.Value:
    value = roller.roll(found.values)
    if not found.keeps:
        return roller.write("Identity", [value], like=value)
    return roller.write("Squeeze", [value, roller.axis(found.axis)])


def _check_uses(states: list[ir.Value]) -> None:
    # A step whose state is read once more than that of its neighbour is no step of a loop.
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
