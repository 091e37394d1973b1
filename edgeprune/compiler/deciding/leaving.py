"""Tokens that leave: how many, by which strategy, and what a person must know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.errors import PlanError
from edgeprune.core.plan import OutputCut, StrategySpec
from edgeprune.core.readout import KEPT_INDICES, ReadOut, find_readout
from edgeprune.options import AUTO
from edgeprune_passes._output import require_readout
from edgeprune_passes.registry import make_strategy
from edgeprune_passes.selection import Nearest

if TYPE_CHECKING:
    from edgeprune.compiler.opening.loading import Loaded
    from edgeprune.core.plan import Plan
    from edgeprune.options import Options

# Below this share near-duplicates cost more than what a ranking finds; see section 6 of the DivPrune paper's tables.
_DIVERSE_BELOW = 0.2


def output_cut(loaded: Loaded, options: Options, left: int) -> OutputCut | None:
    """The reduction of tokens that leave which was asked for; None if none was.

    Args:
        loaded: the model.
        options: of the user.
        left: patch tokens behind the last cut.

    Raises:
        PlanError: if the model has no read-out, a strategy refuses it, or more tokens were asked for than are left.
    """
    asked = options.output_tokens
    if asked is None:
        return None
    stream = loaded.found.found
    patches = stream.tokens - stream.prefix
    readout = require_readout(loaded.dense, loaded.found)
    count = asked if isinstance(asked, int) else max(1, round(asked * patches))
    spec = _spec(loaded, options, readout, count / patches)
    strategy = make_strategy(spec)
    keep = strategy.nearest(count, stream.grid) if isinstance(strategy, Nearest) else count
    refusal = strategy.refuses(loaded.found.blocks[readout.block], stream.prefix)
    if refusal is not None:
        msg = f"the strategy {spec.name} refuses the read-out behind block {readout.block}: {refusal}"
        raise PlanError(msg, hint="name another one with --output-strategy, or auto")
    if not 1 <= keep <= left:
        msg = f"{keep} output tokens were asked for, and {left} of {patches} are left behind the last block"
        raise PlanError(msg, hint="ask for fewer --output-tokens, or keep more with --keep")
    return OutputCut(keep=keep, strategy=spec)


def chooses_by(loaded: Loaded, options: Options) -> int | None:
    """The block whose attention tokens that leave are chosen by; None where none are to be."""
    return None if options.output_tokens is None else require_readout(loaded.dense, loaded.found).block


def _spec(loaded: Loaded, options: Options, readout: ReadOut, share: float) -> StrategySpec:
    """The strategy that was named, for the output or for all; else one by rule."""
    if options.output_strategy != AUTO:
        return StrategySpec(name=options.output_strategy, options=options.output_options)
    if options.strategy != AUTO:
        return StrategySpec(name=options.strategy, options=options.strategy_options)
    block, prefix = loaded.found.blocks[readout.block], loaded.found.found.prefix
    ranked = prefix > 0 and make_strategy(StrategySpec(name="visionzip")).refuses(block, prefix) is None
    return StrategySpec(name="visionzip" if ranked and share >= _DIVERSE_BELOW else "divprune")


def warnings_of(plan: Plan, loaded: Loaded, options: Options) -> list[str]:
    """What a person should read of a plan that changes the interface."""
    cut = plan.output
    if cut is None:
        return []
    readout = find_readout(loaded.dense, loaded.found)
    names = ", ".join(f"`{value.name}`" for value in readout.outputs) if isinstance(readout, ReadOut) else "the output"
    holds = f"{names} holds {cut.keep} of {plan.patch_tokens} patch tokens, chosen by {cut.strategy.name}"
    follows = f"the new output `{KEPT_INDICES}` names them; the language side must follow"
    words = [f"the interface changed: {holds}, and {follows}"]
    if options.output_tokens is not None and options.output_strategy == options.strategy == AUTO:
        words.append(f"{cut.strategy.name} was taken for the output by rule: no language model was there to measure on")
    return words
