"""Strategies and passes by name: our own, and those that others announce through entry points."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar

from edgeprune.core.errors import PlanError

if TYPE_CHECKING:
    from edgeprune.core.passes import Pass
    from edgeprune.core.plan import Option, PassSpec, StrategySpec
    from edgeprune_passes.restores._done import RestoreMode
    from edgeprune_passes.selection import Strategy

T = TypeVar("T")

_STRATEGIES = {
    "keep-all": "edgeprune_passes.strategies.keep_all:KeepAll",
    "random": "edgeprune_passes.strategies.random:Random",
    "uniform": "edgeprune_passes.strategies.uniform:Uniform",
    "cls-topk": "edgeprune_passes.strategies.cls_topk:ClsTopk",
    "mean-attention": "edgeprune_passes.strategies.mean_attention:MeanAttention",
    "zero-tprune": "edgeprune_passes.strategies.zero_tprune:ZeroTprune",
    "tome": "edgeprune_passes.strategies.tome:Tome",
    "prune-merge": "edgeprune_passes.strategies.prune_merge:PruneMerge",
    "importance-merge": "edgeprune_passes.strategies.importance_merge:ImportanceMerge",
    "ward-merge": "edgeprune_passes.strategies.ward_merge:WardMerge",
    "k-centre": "edgeprune_passes.strategies.k_centre:KCentre",
    "grid-cluster": "edgeprune_passes.strategies.grid_cluster:GridCluster",
    "fopru-rank": "edgeprune_passes.strategies.fopru_rank:FopruRank",
    "fopru-row": "edgeprune_passes.strategies.fopru_row:FopruRow",
    "divprune": "edgeprune_passes.strategies.divprune:Divprune",
    "visionzip": "edgeprune_passes.strategies.visionzip:Visionzip",
    "holov": "edgeprune_passes.strategies.holov:Holov",
    "ssm-runs": "edgeprune_passes.strategies.ssm_runs:SsmRuns",
    "ssm-delta": "edgeprune_passes.strategies.ssm_delta:SsmDelta",
    "ssm-output": "edgeprune_passes.strategies.ssm_output:SsmOutput",
}
_RESTORES = {
    "last-seen": "edgeprune_passes.restores.last_seen:LastSeen",
    "nearest": "edgeprune_passes.restores.nearest:Nearest",
    "soft": "edgeprune_passes.restores.soft:Soft",
    "residual-delta": "edgeprune_passes.restores.residual_delta:ResidualDelta",
    "cluster": "edgeprune_passes.restores.cluster:Cluster",
    "unmerge": "edgeprune_passes.restores.unmerge:Unmerge",
}
_PASSES = {
    "canonicalize": "edgeprune_passes.canonicalize:Canonicalize",
    "raise-scans": "edgeprune_passes.raise_scans:RaiseScans",
    "eliminate-tail": "edgeprune_passes.eliminate_tail:EliminateTail",
    "reduce-tokens": "edgeprune_passes.reduce_tokens:ReduceTokens",
    "remove-channels": "edgeprune_passes.remove_channels:RemoveChannels",
    "remove-sublayers": "edgeprune_passes.remove_sublayers:RemoveSublayers",
    "graphsurgeon": "edgeprune_passes.graphsurgeon:Graphsurgeon",
}


@cache
def strategies() -> dict[str, type[Strategy]]:
    """All strategies by name.

    Raises:
        PlanError: if two plug-ins claim one name.
    """
    return _load(_STRATEGIES, "edgeprune.strategies")


@cache
def passes() -> dict[str, type[Pass]]:
    """All passes by name.

    Raises:
        PlanError: if two plug-ins claim one name.
    """
    return _load(_PASSES, "edgeprune.passes")


@cache
def restores() -> dict[str, type[RestoreMode]]:
    """All modes of restoring by name: those that `core.plan.Restore` lists beside `auto` and `none`."""
    return {name: _imported(path) for name, path in _RESTORES.items()}


def make_restore(name: str) -> RestoreMode:
    """A mode of restoring.

    Raises:
        PlanError: for an unknown name, naming the nearest.
    """
    return _make("restore", restores(), name, {})


def _load(own: dict[str, str], group: str) -> dict[str, type]:
    found = {name: _imported(path) for name, path in own.items()}
    for point in entry_points(group=group):
        if point.name in found:
            msg = f"two plug-ins of `{group}` are named `{point.name}`: one is {point.value}"
            raise PlanError(msg, hint="uninstall one of the two packages")
        found[point.name] = point.load()
    return found


def _imported(path: str) -> type:
    module, _, attribute = path.partition(":")
    found: type = getattr(import_module(module), attribute)
    return found


def make_strategy(spec: StrategySpec) -> Strategy:
    """A strategy with its options.

    Raises:
        PlanError: for an unknown name or option, naming the nearest.
    """
    return _make("strategy", strategies(), spec.name, spec.options)


def make_pass(spec: PassSpec) -> Pass:
    """A pass with its options.

    Raises:
        PlanError: for an unknown name or option, naming the nearest.
    """
    return _make("pass", passes(), spec.name, spec.options)


def _make(kind: str, known: dict[str, type[T]], name: str, options: dict[str, Option]) -> T:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(known))}"
        msg = f"unknown {kind} `{name}`"
        raise PlanError(msg, hint=hint)
    try:
        return known[name](**options)
    except TypeError as error:
        msg = f"the {kind} `{name}` does not take these options: {', '.join(options)}"
        fields = getattr(known[name], "__dataclass_fields__", {})
        raise PlanError(msg, hint=f"its options are: {', '.join(fields) or 'none'}") from error
