"""What a compile found out, as values: the parts of a report. Units are in the field names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from edgeprune.core.plan import Option
from edgeprune.core.refusals import Refusal

LatencyKind: TypeAlias = Literal["measured", "modelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """One graph in numbers. `macs`: multiply-accumulates of one run at the static shapes (1 MAC = 2 FLOPs)."""

    sha256: str
    macs: int
    params: int
    blocks: int
    tokens: int
    prefix_tokens: int
    tokens_per_block: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Difference of one output to the dense model's on data, averaged over samples.

    Attributes:
        cosine: mean over samples of the cosine of the flattened outputs.
        kl: mean KL(softmax(dense) || softmax(pruned)) over the last axis in nats; None where there are no logits.
        root_kl: mean of the square roots of the samples' KL; few bad samples do not decide it, so decisions use it.
        top1_agreement: share of samples with the same argmax; None where the output holds no logits.
        relative_error: mean over samples of ||pruned - dense|| / ||dense||.
        worst_sample: name of the sample with the largest relative error.
        correlation: mean over samples of the Pearson correlation of the flattened outputs.
        mean_abs_error: mean over samples and elements of |pruned - dense|.
        relative_errors: one number a sample, in the order of the data.
    """

    cosine: float
    kl: float | None
    root_kl: float | None = None
    top1_agreement: float | None
    relative_error: float
    worst_sample: str
    correlation: float
    mean_abs_error: float
    relative_errors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exactness:
    """Pruned graph against an independent reference of the same reduction.

    Attributes:
        method: which reference was run.
        max_abs_error: largest difference over all compared outputs and samples.
        max_abs_value: largest reference value, the scale of the error.
        sensitivity: largest difference between pruned and dense there; a proof needs it far above the error.
        passed: error within fp32 rounding of the scale, and sensitivity far above the error.
    """

    method: str
    max_abs_error: float
    max_abs_value: float
    sensitivity: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """All proofs of one compile. None where it was not run (no data, or nothing to prove)."""

    reference: str
    samples: int
    identity: bool | None = None
    exactness: Exactness | None = None
    drift: dict[str, Drift] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One strategy that was tried at the asked budget, and what it cost."""

    name: str
    options: dict[str, Option]
    macs_ratio: float
    score: float | None
    drift: dict[str, Drift]
    refused: Refusal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBuild:
    """One engine, or why there is none. `attentions`: in the graph; `fused_attentions`: fused kernels in the plan."""

    target: str
    builder: str
    compute_capability: str
    built: bool
    path: str | None = None
    bytes: int | None = None
    attentions: int | None = None
    fused_attentions: int | None = None
    dense_fused_attentions: int | None = None
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Dense and pruned latency of one run on one target; `kind` says where the numbers come from."""

    target: str
    kind: LatencyKind
    dense_p50_ms: float
    pruned_p50_ms: float
    speedup: float
    method: str = ""
