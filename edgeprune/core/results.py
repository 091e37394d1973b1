"""What a compile found out, as values: the parts of a report. Units are in the field names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from edgeprune.core.plan import Option, WidthKind
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
class WidthReport:
    """What was cut of one width, and what it cost there.

    Attributes:
        kind: MLP channels, heads, or head size; or a whole attention or MLP.
        block: index of the block.
        number: tells apart several of one kind in a block.
        keep: units that stay; 0 of 1 where a sublayer's mean stands for it.
        of: units that there were.
        method: how the weights that stay were changed.
        ridge: of the regression, as a share of the mean variance; None where there was none.
        error: squared error of the output that the units make, over its variance, on held-out samples; for head sizes
            no less than what the logits lose. None where a plan was given without it.
        untouched: the same if the units were taken out and nothing was solved; None for head sizes.
        reason: why not every weight was solved anew; empty where all were.
    """

    kind: WidthKind
    block: int
    number: int
    keep: int
    of: int
    method: str
    ridge: float | None
    error: float | None
    untouched: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """All proofs of one compile. None where it was not run (no data, or nothing to prove).

    `scans` is that of selective scans that were raised from what the source spells otherwise.
    """

    reference: str
    samples: int
    scans: Exactness | None = None
    identity: bool | None = None
    exactness: Exactness | None = None
    widths: Exactness | None = None
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
class EngineCheck:
    """An engine's outputs against ONNX Runtime's on the same inputs, on a machine that can run the engine.

    Attributes:
        samples: how many inputs were run.
        cosine: of the flattened outputs, the worst over outputs and samples.
        relative_error: ||engine - reference|| / ||reference||, the worst over outputs and samples.
        passed: within what the engine's precision explains.
    """

    samples: int
    cosine: float
    relative_error: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBuild:
    """One engine, or why there is none.

    Attributes:
        target: name of the profile.
        builder: name of the builder.
        compute_capability: as 'major.minor'.
        built: whether there is an engine.
        tried: whether this machine can build for the target, so that no engine is a failure.
        path: of the engine, relative to the output folder.
        manifest: of its manifest, relative to the output folder.
        runtime: what built it, with its version: 'TensorRT-RTX 1.7.1'.
        bytes: size of the engine.
        sha256: of the engine.
        kernels: distinct kernels in it, where that can be told.
        attentions: in the graph.
        fused_attentions: fused attention kernels in the engine.
        dense_fused_attentions: the same in the dense model's engine.
        seconds: of the build.
        check: outputs against ONNX Runtime's; None where the engine cannot run here.
        attention_unfused: whether attention was kept out of fused kernels, asked for or because they were wrong.
        error: why there is no engine, and what to do.
    """

    target: str
    builder: str
    compute_capability: str
    built: bool
    tried: bool = False
    path: str | None = None
    manifest: str | None = None
    runtime: str = ""
    bytes: int | None = None
    sha256: str = ""
    kernels: int | None = None
    attentions: int | None = None
    fused_attentions: int | None = None
    dense_fused_attentions: int | None = None
    seconds: float | None = None
    check: EngineCheck | None = None
    attention_unfused: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An 80 % interval: about four in five true values lie inside."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Latencies of repeated runs in milliseconds. `samples`: how many there were, after the warm-up."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLatency:
    """Dense and pruned time of one block; block -1 is what comes before the first, the head counts with the last."""

    block: int
    dense_ms: float
    pruned_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Dense and pruned latency of one run on one target.

    Attributes:
        target: name of the profile, or of the runtime on this machine.
        kind: whether the numbers come from a clock or from the latency model.
        dense_p50_ms: median of the dense model.
        pruned_p50_ms: median of the pruned model.
        speedup: dense / pruned; where runs were paired, the median of the pairs' ratios.
        method: one sentence on how.
        runtime: with its version, 'TensorRT 10.3.0'; empty where nothing ran.
        precision: of the matrix products.
        device: the machine that was measured, in its own words; empty if modelled.
        dense_interval_ms: modelled only.
        pruned_interval_ms: modelled only.
        speedup_interval: modelled, or measured in pairs; narrower than the two latencies', whose errors go together.
        dense_timing: measured only.
        pruned_timing: measured only.
        blocks: the same by block, where it is known.
    """

    target: str
    kind: LatencyKind
    dense_p50_ms: float
    pruned_p50_ms: float
    speedup: float
    method: str = ""
    runtime: str = ""
    precision: str = ""
    device: str = ""
    dense_interval_ms: Interval | None = None
    pruned_interval_ms: Interval | None = None
    speedup_interval: Interval | None = None
    dense_timing: Timing | None = None
    pruned_timing: Timing | None = None
    blocks: tuple[BlockLatency, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCost:
    """One block before and after: all tokens that enter it, and its MACs.

    Attributes:
        block: 0-based; -1 is what comes before the first, and the head counts with the last.
        dense_tokens: T that enter the block in the dense model.
        pruned_tokens: T that enter it in the pruned model.
        dense_macs: of the dense block.
        pruned_macs: of the pruned block, with what the cut itself costs.
    """

    block: int
    dense_tokens: int
    pruned_tokens: int
    dense_macs: int
    pruned_macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CutMap:
    """Where each patch token of the dense grid is after one cut.

    `owners[i]` is the patch token whose place in the stream now stands for patch i (i itself where it was kept, another
    one where it was merged into that), or -1 where it was dropped. `block` is -1 where tokens leave by outputs.
    """

    block: int
    owners: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMap:
    """What became of the tokens of one sample.

    Attributes:
        sample: its name.
        image: file of the picture, relative to the output folder; None where the data are no pictures.
        rows: of the grid of patches; rows * columns == number of patch tokens.
        columns: of the grid of patches.
        cuts: in the order of the blocks.
    """

    sample: str
    image: str | None
    rows: int
    columns: int
    cuts: tuple[CutMap, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstSample:
    """One of the samples that drifted most. `image`: file of the picture, relative to the output folder."""

    sample: str
    output: str
    relative_error: float
    image: str | None = None
