"""What a user may ask of a compile beside the model, the target and the budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from edgeprune.core.errors import PlanError
from edgeprune.core.plan import Alignment, Option, PassSpec, Precision, Restore, WidthKind

AUTO = "auto"
DriftMetric: TypeAlias = Literal["cosine", "kl", "top1_agreement", "relative_error", "correlation", "mean_abs_error"]
DRIFT_METRICS: tuple[str, ...] = get_args(DriftMetric)
AXES = ("tokens", "mlp", "inner", "head-size", "heads", "sublayers")
HIGHER_IS_BETTER = frozenset({"cosine", "top1_agreement", "correlation"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything with a default; a value that cannot be meant is refused when it is given.

    Attributes:
        strategy: name of a token-reduction strategy, or 'auto' to try several on the data and take the best.
        strategy_options: options of that strategy by name.
        mlp_keep: share of the MLPs' channels that stays, averaged over the blocks; None leaves them as they are.
        inner_keep: share of the channels between the projections of scans that stays: the inner width of Mamba.
        heads_keep: share of the attention heads that stays.
        head_size_keep: share of the coordinates that stays of every head, by rotation.
        axes: what a budget of MACs, parameters or modelled latency is divided among: 'tokens', 'mlp', 'inner',
            'head-size', 'heads', and 'sublayers', whole attentions and MLPs in whose place their mean stays; empty for
            tokens, and for 'mlp' and 'head-size' where parameters are the budget.
        params: share of the model's parameters that stays, as a budget of its own.
        latency: share of the dense model's modelled latency on the targets, as a budget of its own.
        latency_ms: the same in milliseconds, modelled, on the slowest of the targets.
        output_tokens: patch tokens that leave by outputs of one row a token, as a count (int) or a share (float): such
            outputs get shorter, and a further one, `kept_indices`, names the patches. None leaves outputs as they are.
        output_strategy: how those are chosen; 'auto' takes `strategy` where one is named, else one by rule.
        output_options: options of that strategy by name.
        data: folder of images or of arrays, `.npy`, `.npz`, or 'pkg.module:callable'; None to validate nothing on data.
        preprocess: 'imagenet', 'half', 'clip', or a TOML file.
        reference: PyTorch source to validate against; None for the source ONNX.
        inputs: static shape by input name, for inputs whose shape the model leaves open.
        batch: size of the batch axis where the model leaves it open.
        precision: of the engine; None is fp16 with a target and fp32 without.
        samples: at most this many samples of the data; None for all.
        seed: of every pseudo-random choice.
        force: overwrite an existing output folder.
        max_drift: limit by metric: an upper one, or a lower one for the metrics in `HIGHER_IS_BETTER`.
        restore: how tokens come back where the head or an output needs all of them.
        alignment: what selective scans behind a cut make of tokens that are gone: how their state decays, or which
            tokens stand in; 'auto' takes what drifts least on the data, and 'neighbours' without data.
        tail_elimination: compute only the rows that the head reads in the last block.
        cuts: at most this many cuts; None is four, or fewer where the targets run faster then.
        passes: further passes to run on the reduced graph, in order.
        trust_plan: run code that a given plan names; only for plans whose origin is known.
        search: schedules to try on the data beside the default curve; 0 for none.
        engine: build engines for the targets that can be built for here.
        dense_engine: build the dense model's engines too, to compare fused attentions and to time both.
        tensorrt: version of TensorRT on the devices, '10.3' or '10.3.0'; None for the one that each profile names.
        fused_attention: let the runtime fuse attention; False lowers it so that none does, where kernels are wrong.
        scan: how selective scans are written: 'loop', a token at a time, 'chunked', many at once, or 'auto': a loop in
            model.onnx, which ONNX Runtime runs best, and chunks for TensorRT.
        threads: of every run on this machine; 0 leaves it to the runtime.
        command: words of the command line, for the report.

    Raises:
        PlanError: if a number is outside its range, a shape is empty, or a metric has no such name.
    """

    strategy: str = AUTO
    strategy_options: dict[str, Option] = field(default_factory=dict)
    mlp_keep: float | None = None
    inner_keep: float | None = None
    heads_keep: float | None = None
    head_size_keep: float | None = None
    axes: tuple[str, ...] = ()
    params: float | None = None
    latency: float | None = None
    latency_ms: float | None = None
    output_tokens: int | float | None = None
    output_strategy: str = AUTO
    output_options: dict[str, Option] = field(default_factory=dict)
    data: str | Path | None = None
    preprocess: str | Path = "imagenet"
    reference: str | None = None
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    batch: int = 1
    precision: Precision | None = None
    samples: int | None = None
    seed: int = 0
    force: bool = False
    max_drift: dict[str, float] = field(default_factory=dict)
    restore: Restore = "auto"
    alignment: Alignment | Literal["auto"] = "auto"
    tail_elimination: bool = True
    cuts: int | None = None
    passes: tuple[PassSpec, ...] = ()
    trust_plan: bool = False
    search: int = 8
    engine: bool = True
    dense_engine: bool = False
    tensorrt: str | None = None
    fused_attention: bool = True
    scan: Literal["auto", "loop", "chunked"] = "auto"
    threads: int = 0
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check ranges, so that no later code has to.

        Raises:
            PlanError: naming the option.
        """
        for name, value, low in (
            ("batch", self.batch, 1),
            ("samples", self.samples, 1),
            ("cuts", self.cuts, 1),
            ("search", self.search, 0),
            ("seed", self.seed, 0),
            ("threads", self.threads, 0),
        ):
            _check_at_least(name, value, low)
        for kind, share in self.width_shares.items():
            _check_share(f"{kind}-keep", share)
        for name, budget in (("params", self.params), ("latency", self.latency)):
            if budget is not None:
                _check_share(name, budget)
        if self.latency_ms is not None and self.latency_ms <= 0:
            msg = f"`latency_ms` is {self.latency_ms:g}, expected milliseconds above 0"
            raise PlanError(msg, hint="for example --latency-ms 5")
        _check_axes(self.axes)
        _check_output_tokens(self.output_tokens)
        for metric in self.max_drift:
            _check_metric(metric)
        for name, shape in self.inputs.items():
            _check_shape(name, shape)

    @property
    def width_shares(self) -> dict[WidthKind, float]:
        """The shares of widths that were asked for."""
        asked: dict[WidthKind, float | None] = {
            "mlp": self.mlp_keep,
            "inner": self.inner_keep,
            "heads": self.heads_keep,
            "head-size": self.head_size_keep,
        }
        return {kind: share for kind, share in asked.items() if share is not None}

    def precision_for(self, targets: tuple[str, ...]) -> Precision:
        """Precision of the engine for these targets, with the default decided."""
        return self.precision or ("fp16" if targets else "fp32")


def _check_at_least(name: str, value: int | None, low: int) -> None:
    if value is not None and value < low:
        msg = f"`{name}` is {value}, expected {low} or more"
        raise PlanError(msg, hint=f"give a larger `{name}`, or leave it out for the default")


def _check_output_tokens(value: float | None) -> None:
    """Check that a count is one or more, and a share in (0, 1].

    Raises:
        PlanError: if it is not.
    """
    if value is None or (isinstance(value, int) and value >= 1) or (isinstance(value, float) and 0 < value <= 1):
        return
    msg = f"`output_tokens` is {value:g}, expected a count of 1 or more, or a share above 0 and at most 1"
    raise PlanError(msg, hint="for example --output-tokens 144, or --output-tokens 0.25")


def _check_share(option: str, share: float) -> None:
    if not 0 < share <= 1:
        msg = f"`{option.replace('-', '_')}` is {share:g}, expected a share above 0 and at most 1"
        raise PlanError(msg, hint=f"for example --{option} 0.8")


def _check_axes(axes: tuple[str, ...]) -> None:
    for axis in axes:
        if axis not in AXES:
            msg = f"no axis is named `{axis}`: `axes`"
            raise PlanError(msg, hint=f"the axes are {', '.join(AXES)}")


def _check_metric(metric: str) -> None:
    if metric not in DRIFT_METRICS:
        msg = f"no drift metric is named `{metric}`: `max_drift`"
        raise PlanError(msg, hint=f"the metrics are {', '.join(DRIFT_METRICS)}")


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    if not shape or any(size < 1 for size in shape):
        msg = f"input `{name}` is given the shape `{'x'.join(map(str, shape))}`, expected positive sizes"
        raise PlanError(msg, hint="write it as NAME:1x3x224x224")
