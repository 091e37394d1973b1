"""From the two bulk values of a linear recurrence to the operands of a selective scan.

    h_t = a_t * h_(t-1) + b_t        a = exp(step * A)        b = input * B        y = h . C

What belongs to what is read off the axes: a factor of the exponent that varies with the token is a step, one that does
not is A; a factor of b that spans the state is B, every other is input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.core.graph import PREFIX
from edgeprune.core.scans import selective_scan
from edgeprune.core.tape import Tape, fresh_name
from edgeprune_passes.scans._arrange import arranged, filled, laid_out, multiplied
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._edit import replace_value
from edgeprune_passes.scans._factors import Product, exponent_of, factorised, topmost
from edgeprune_passes.scans._flips import flipped
from edgeprune_passes.scans._readout import Readout, find_readout
from edgeprune_passes.scans._views import View, view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

TOKENS = "T"
_AXES = "abcdefgh"
_MATRIX = 2  # the operand without tokens
_STILL = "the decay is the same for every token: linear attention, no selective scan"


@dataclass(frozen=True, slots=True, eq=False)
class Recurrence:
    """A linear recurrence, all tokens at once.

    Attributes:
        decay: a, tokens first: [T, ...]; None where the state is only added to.
        added: b, the same.
        states: h, in the order of axes that each is given with.
        shape: of the state.
        tokens: T.
        backwards: h_t comes of h_(t+1).
        at: the node that it was raised from.
    """

    decay: ir.Value | None
    added: ir.Value
    states: tuple[tuple[ir.Value, tuple[int, ...]], ...]
    shape: tuple[int, ...]
    tokens: int
    backwards: bool
    at: ir.Node


@dataclass(frozen=True, slots=True, eq=False)
class _Axes:
    """The letter of each axis: batch is all that is neither channel nor state."""

    batch: str
    channel: str
    state: str


def refine(model: ir.Model, found: Recurrence) -> ir.Node:
    """Write the selective scan and let what read the contraction read its result.

    Raises:
        DeclinedError: saying in what the recurrence is no selective scan.
    """
    letters = _AXES[: len(found.shape)]
    sizes = {TOKENS: found.tokens, **dict(zip(letters, found.shape, strict=True))}
    axes = ((TOKENS,), *((letter,) for letter in letters))
    states = [_seen(value, [axes[i] for i in order], sizes, found.at) for value, order in found.states]
    readout = find_readout(states, sizes)
    if found.decay is None:
        raise DeclinedError(found.at, "the state does not decay: linear attention, no selective scan")
    seen = _seen(found.decay, axes, sizes, found.at)
    if TOKENS not in seen.letters:
        raise DeclinedError(found.at, _STILL)
    exponent = exponent_of(seen, sizes)
    if exponent is None:
        made = topmost(seen, sizes).value.producer()
        raise DeclinedError(made or found.at, _no_exponential(made))
    decay = factorised(exponent, (TOKENS, readout.letter), sizes)
    roles = _roles(found, readout, decay, sizes)
    added = factorised(_seen(found.added, axes, sizes, found.at), (roles.channel, roles.state), sizes)
    return _written(model, found, readout, (decay, added), roles, sizes)


def _no_exponential(made: ir.Node | None) -> str:
    if made is not None and made.op_type in {"Gather", "GatherND", "Slice", "Concat"}:
        return "tokens are picked or joined between the exponential of the decay and the recurrence"
    return "the decay is no exponential of a step times a constant"


def _seen(value: ir.Value, axes: Sequence[tuple[str, ...]], sizes: Mapping[str, int], at: ir.Node) -> View:
    found = view(value, axes, sizes)
    if found is None:
        raise DeclinedError(at, f"`{value.name}` has no static shape")
    return found


def _roles(found: Recurrence, readout: Readout, decay: Product, sizes: Mapping[str, int]) -> _Axes:
    # Read off A, the step and the sum.
    state = readout.letter
    moving = decay.spanning(TOKENS)
    still = [factor for factor in decay.factors if factor not in moving]
    if not moving:
        raise DeclinedError(found.at, _STILL)
    if any(state in factor.letters for factor in moving):
        raise DeclinedError(found.at, "the step differs among the states of a channel")
    if not any(state in factor.letters for factor in still):
        reason = "the decay is the same for all states of a channel: Mamba-2 (SSD) or linear attention"
        raise DeclinedError(found.at, reason)
    rest = [letter for letter in sizes if letter not in {state, TOKENS}]
    spanned = [letter for letter in rest if sizes[letter] > 1 and any(letter in factor.letters for factor in still)]
    spanned = spanned or rest[-1:]
    if len(spanned) != 1:
        raise DeclinedError(found.at, f"A spans {len(spanned) + 1} axes of the state, channel and state are expected")
    batch = [letter for letter in rest if letter not in spanned]
    if len(batch) > 1:
        raise DeclinedError(found.at, f"the state has {len(rest) + 1} axes, batch, channel and state are expected")
    return _Axes("".join(batch), spanned[0], state)


def _written(
    model: ir.Model,
    found: Recurrence,
    readout: Readout,
    products: tuple[Product, Product],
    roles: _Axes,
    sizes: dict[str, int],
) -> ir.Node:
    decay, added = products
    batch = roles.batch or "B"
    sizes = sizes if roles.batch else {**sizes, batch: 1}
    channels, states = f"{batch}{TOKENS}{roles.channel}", f"{batch}{TOKENS}{roles.state}"
    for factor in (*added.factors, readout.columns):
        if {roles.state, roles.channel} <= factor.letters:
            raise DeclinedError(
                factor.value.producer() or found.at, "B or C differs by channel, or cannot be told from the input"
            )
    target = readout.result.value.producer()
    assert target is not None
    tape = Tape(model, before=target, prefix=fresh_name(model, f"{PREFIX}scan"))
    moving = decay.spanning(TOKENS + (batch if sizes[batch] > 1 else ""))
    rows = added.spanning(roles.state)
    matrix = roles.channel + roles.state
    step = multiplied(tape, moving, 1.0, channels, sizes)
    fixed = multiplied(tape, [f for f in decay.factors if f not in moving], decay.scale, matrix, sizes)
    inputs = multiplied(tape, [f for f in added.factors if f not in rows], added.scale, channels, sizes)
    gates = multiplied(tape, rows, 1.0, states, sizes)
    one = tape.scalar(1.0)
    operands = [
        filled(tape, step or one, channels, sizes),
        filled(tape, inputs or one, channels, sizes),
        filled(tape, fixed or one, matrix, sizes),
        filled(tape, gates or one, states, sizes),
        filled(tape, arranged(tape, topmost(readout.columns, sizes), states, sizes), states, sizes),
    ]
    if found.backwards:
        operands = [value if i == _MATRIX else flipped(tape, value, 1) for i, value in enumerate(operands)]
    node = selective_scan(operands, name=fresh_name(model, f"{tape.prefix}/y"))
    model.graph.insert_before(target, node)
    result = flipped(tape, node.outputs[0], 1) if found.backwards else node.outputs[0]
    replace_value(readout.result.value, laid_out(tape, result, channels, readout.result.axes, sizes))
    return node
