"""The report of a compile: what was decided, gained and lost, as one value. `report.json` is this file's `Report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from edgeprune.core.plan import Option, Plan
from edgeprune.core.refusals import Refusal
from edgeprune.core.results import (
    BlockCost,
    Candidate,
    EngineBuild,
    Latency,
    ModelFacts,
    TokenMap,
    Validation,
    WidthReport,
    WorstSample,
)
from edgeprune.report.checked import LoweringProof
from edgeprune.report.environment import Environment

SCHEMA = 2

BudgetKind: TypeAlias = Literal["keep", "macs", "params", "modelled-latency", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What was asked for and what was reached.

    Attributes:
        kind: 'keep' (share of patch-token work), 'macs' (share of the model's MACs), 'params' (share of its
            parameters), 'modelled-latency' (share of the dense model's on the targets), or 'plan' (a plan was given).
        asked: the share that was asked for; None for a plan.
        keep: share of patch-token work kept, averaged over the blocks.
        macs: share of the dense model's MACs kept.
    """

    kind: BudgetKind
    asked: float | None
    keep: float
    macs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyReport:
    """The strategy that was applied, and all that were tried for it."""

    name: str
    options: dict[str, Option] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a compile found out.

    Attributes:
        schema: version of this format.
        source: name of the model's file, or the PyTorch source.
        model: the dense model in numbers.
        pruned: the compiled model in numbers.
        budget: what was asked for and reached.
        strategy: what was applied, and what else was tried.
        plan: the whole decision; the same as `plan.json`.
        validation: proofs, and drift on data.
        engines: one for each target that an engine was asked for.
        widths: what was cut of each width, and what it cost there.
        latency: dense against pruned; each says whether it was measured or modelled.
        lowerings: one a runtime that the graph was written for: the same numbers as the compiled graph's.
        blocks: tokens and MACs of each block, dense against pruned.
        token_maps: what became of the tokens of a few samples.
        worst_samples: the samples that drifted most, worst first.
        refusals: what was declined, why and where.
        warnings: sentences that a person should read.
        environment: versions and machine.
        command: words of the command line; empty from Python.
    """

    schema: int = SCHEMA
    source: str = ""
    model: ModelFacts
    pruned: ModelFacts
    budget: Budget
    strategy: StrategyReport
    plan: Plan
    validation: Validation
    widths: tuple[WidthReport, ...] = ()
    engines: tuple[EngineBuild, ...] = ()
    latency: tuple[Latency, ...] = ()
    lowerings: tuple[LoweringProof, ...] = ()
    blocks: tuple[BlockCost, ...] = ()
    token_maps: tuple[TokenMap, ...] = ()
    worst_samples: tuple[WorstSample, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()
    environment: Environment
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReport:
    """What `validate` found out about a dense and a pruned model.

    Attributes:
        schema: version of this format.
        model: the dense model in numbers.
        pruned: the pruned model in numbers.
        validation: proofs, and drift on data.
        refusals: proofs that could not be made, why and where.
        warnings: sentences that a person should read.
        environment: versions and machine.
        command: words of the command line; empty from Python.
    """

    schema: int = SCHEMA
    model: ModelFacts
    pruned: ModelFacts
    validation: Validation
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()
    environment: Environment
    command: tuple[str, ...] = ()
