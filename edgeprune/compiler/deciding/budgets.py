"""What a user asks for: one budget, of one kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeprune.core.errors import PlanError

if TYPE_CHECKING:
    from edgeprune.options import Options


@dataclass(frozen=True, slots=True)
class Budget:
    """What was asked for: a share of patch-token work, or of the whole model's MACs, parameters or modelled latency."""

    kind: Literal["keep", "macs", "params", "modelled-latency"]
    share: float


def make_budget(keep: float | None, macs: float | None) -> Budget:
    """The budget of two options of which one is given.

    Raises:
        PlanError: if both or none is given, or the share is outside (0, 1].
    """
    given = [Budget("keep", keep)] if keep is not None else []
    given += [Budget("macs", macs)] if macs is not None else []
    if len(given) != 1:
        msg = "give exactly one of `keep`, `macs` and `plan`"
        raise PlanError(msg, hint="for example --keep 0.6: keep 60 % of the patch-token work")
    budget = given[0]
    if not 0 < budget.share <= 1:
        msg = f"`{budget.kind}` is {budget.share:g}, expected a share above 0 and at most 1"
        raise PlanError(msg, hint=f"for example --{budget.kind} 0.6")
    return budget


def budget_of(keep: float | None, macs: float | None, options: Options) -> Budget:
    """The budget inside the encoder; all of it where only tokens that leave, or widths, are to be fewer.

    Raises:
        PlanError: as `make_budget`.
    """
    if options.latency is not None or options.latency_ms is not None:
        return _latency_budget(keep, macs, options)
    if options.params is not None:
        return _params_budget(keep, macs, options)
    if options.axes and (macs is None or options.width_shares):
        msg = "`axes` divides a budget of MACs, parameters or latency, and nothing else is asked for with it"
        raise PlanError(msg, hint="for example --macs 0.8 --axes tokens,mlp")
    asks_else = options.output_tokens is not None or bool(options.width_shares)
    if asks_else and keep is None and macs is None:
        return Budget("keep", 1.0)
    if options.width_shares and macs is not None:
        msg = "`macs` is met by cutting tokens alone, and widths are cut beside it: the result would have fewer"
        raise PlanError(msg, hint="give --keep for the tokens, or leave out the shares of widths")
    return make_budget(keep, macs)


def _latency_budget(keep: float | None, macs: float | None, options: Options) -> Budget:
    """A budget whose share in milliseconds is known once the dense model is.

    Raises:
        PlanError: if something else is asked for beside it.
    """
    both = options.latency is not None and options.latency_ms is not None
    if keep is not None or macs is not None or options.params is not None or options.width_shares or both:
        msg = "`latency` is a budget of its own"
        raise PlanError(msg, hint="give --latency or --latency-ms alone, or with --axes")
    return Budget("modelled-latency", options.latency or 0.0)


def _params_budget(keep: float | None, macs: float | None, options: Options) -> Budget:
    if keep is not None or macs is not None or options.width_shares:
        msg = "`params` is a budget of its own"
        raise PlanError(msg, hint="give --params alone, or with --axes")
    if set(options.axes) <= {"tokens"} and options.axes:
        msg = "fewer tokens do not make fewer parameters"
        raise PlanError(msg, hint="name widths: --axes mlp,head-size")
    assert options.params is not None
    return Budget("params", options.params)
