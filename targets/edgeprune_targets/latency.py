"""The latency model: a roofline per kernel, read from the graph's own shapes. Its numbers are modelled, not measured.

    time = sum over kernels of ((compute^2 + memory^2)^(1/2) + launch), and not below energy / power limit

A matrix product runs in tiles and the tiles in waves over the SMs, so that a few rows less may gain nothing. The
utilisations are fitted on published timings (benchmarks/bench_latency_model.py); the interval is as wide as the errors
of devices and models that the fit was not shown. A selective scan counts as the few launches that its chunks take; a
loop starts the kernels of its body for every token.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING, Literal, TypeAlias

from edgeprune.core.results import Interval
from edgeprune_targets._coefficients import coefficients, fitted, machine_of
from edgeprune_targets._utilisation import Ideal, held_back, ideal, is_resident, kernel_parts
from edgeprune_targets.kernels import kernels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune_targets._utilisation import Coefficients, Machine
    from edgeprune_targets.kernels import Kernel
    from edgeprune_targets.target import Target

Precision: TypeAlias = Literal["fp32", "fp16"]

METHOD = (
    "roofline per fused kernel with tile and wave quantisation, utilisations fitted on published TensorRT timings; "
    "80 % interval from devices and models left out of the fit"
)
_SELECTION = "edgeprune/"  # nodes of a cut are named so; no timing of such kernels was published
_SELECTION_FACTOR = 2.0  # the time of what a cut adds may be half or double
_LEAST_GAIN = 0.1  # of the logarithm of a speed-up, below which its error does not shrink further


@dataclass(frozen=True, slots=True)
class BlockTime:
    """Modelled time of one transformer block; block -1 is what comes before the first."""

    block: int
    ms: float
    kernels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Shares of a run's time by what limits it; they add up to 1."""

    compute: float
    memory: float
    launch: float

    @property
    def most(self) -> str:
        """What limits most of the time."""
        return max(("compute", "memory", "launch"), key=lambda name: float(getattr(self, name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Modelled latency of one run of a graph on one target, at the graph's static shapes.

    Attributes:
        target: name of the profile.
        precision: of the matrix products.
        p50_ms: the modelled median.
        interval: 80 % of true medians are to lie inside.
        blocks: the same by block, ordered; the head counts with the last block.
        kernels: launches of one run.
        bound: what limits it.
        selection_ms: time of what cuts added to the graph; no published timing holds such kernels.
        confidence: what the fit has seen of this device and this kind of model, in words.
    """

    target: str
    precision: Precision
    p50_ms: float
    interval: Interval
    blocks: tuple[BlockTime, ...]
    kernels: int
    bound: Bound
    selection_ms: float
    confidence: str


@dataclass(frozen=True, slots=True)
class _Timed:
    """One kernel with its parts in microseconds."""

    kernel: Kernel
    compute: float
    memory: float
    launch: float

    @property
    def work(self) -> float:
        return float((self.compute**2 + self.memory**2) ** 0.5)

    @property
    def total(self) -> float:
        return self.work + self.launch


def estimate(model: ir.Model, target: Target, precision: Precision = "fp16") -> Estimate:
    """Model the latency of one run.

    Raises:
        TargetError: if a shape is unknown.
    """
    machine = machine_of(target)
    at = coefficients(machine.family, precision)
    kernels = kernels_of(model, precision)
    resident = is_resident(sum(kernel.weight_bytes for kernel in kernels), machine)
    ideals = [ideal(kernel, machine, precision, resident=resident) for kernel in kernels]
    timed = [_Timed(kernel, *kernel_parts(part, at)) for kernel, part in zip(kernels, ideals, strict=True)]
    total_us = _total_us(timed, ideals, machine, at)
    scale = total_us / (sum(kernel.total for kernel in timed) + at("start")) / 1e3
    seen = _seen(target, machine, kernels)
    return Estimate(
        target=target.name,
        precision=precision,
        p50_ms=total_us / 1e3,
        interval=_interval(total_us / 1e3, seen),
        blocks=_blocks(timed, at("start"), scale),
        kernels=len(kernels),
        bound=_bound(timed, at("start")),
        selection_ms=scale * sum(kernel.total for kernel in timed if kernel.kernel.node.startswith(_SELECTION)),
        confidence=_CONFIDENCE[seen],
    )


def compare(dense: Estimate, pruned: Estimate) -> Interval:
    """80 % interval of the speed-up of `pruned` over `dense`; its middle is the ratio of their medians.

    Both estimates are wrong in the same direction, so the interval is narrower than the two latencies would give. Its
    width is that of measured pairs (one model on one device at two batches or input sizes), relative to the logarithm
    of the speed-up, and that of the selection, which no published timing holds and which may take half or double.
    """
    ratio = dense.p50_ms / pruned.p50_ms
    rest = pruned.p50_ms - pruned.selection_ms
    width = float(fitted()["speed_up_half_width"]) * max(abs(log(dense.p50_ms / rest)), _LEAST_GAIN)
    slow = log((rest + pruned.selection_ms * _SELECTION_FACTOR) / pruned.p50_ms)
    fast = log(pruned.p50_ms / (rest + pruned.selection_ms / _SELECTION_FACTOR))
    return Interval(low=ratio * exp(-((width**2 + slow**2) ** 0.5)), high=ratio * exp((width**2 + fast**2) ** 0.5))


def _total_us(timed: Sequence[_Timed], ideals: Sequence[Ideal], machine: Machine, at: Coefficients) -> float:
    kernels_us = sum(kernel.total for kernel in timed) + at("start")
    return float(held_back(kernels_us, sum(part.energy_uj for part in ideals), machine.watts, at))


def _blocks(timed: Sequence[_Timed], start_us: float, scale: float) -> tuple[BlockTime, ...]:
    """Times by block; what it takes to start counts with the first."""
    times: dict[int, list[float]] = defaultdict(list)
    for kernel in timed:
        times[kernel.kernel.block].append(kernel.total)
    first = min(times, default=-1)
    return tuple(
        BlockTime(block, scale * (sum(parts) + (start_us if block == first else 0.0)), len(parts))
        for block, parts in sorted(times.items())
    )


def _bound(timed: Sequence[_Timed], start_us: float) -> Bound:
    total = sum(kernel.total for kernel in timed) + start_us
    compute = sum(kernel.work for kernel in timed if kernel.compute >= kernel.memory) / total
    memory = sum(kernel.work for kernel in timed if kernel.compute < kernel.memory) / total
    return Bound(compute=compute, memory=memory, launch=1 - compute - memory)


_CONFIDENCE = {
    "device": "this device was measured with other models",
    "architecture": "no measured row of this device in this mode, but of its architecture: interval widened",
    "none": "no TensorRT timing of this architecture in the fit: interval widened",
    "family": "no measured model of this kind: interval widened",
}


def _seen(target: Target, machine: Machine, kernels: Sequence[Kernel]) -> str:
    """What the fit has seen: a key of `_CONFIDENCE`."""
    products = sum(kernel.kind != "pointwise" and kernel.flops > 0 for kernel in kernels)
    attentions = sum(kernel.kind == "attention" for kernel in kernels)
    convolutions = sum(kernel.kind in {"conv", "depthwise"} for kernel in kernels)
    if 3 * products < len(kernels) or not (attentions or 2 * convolutions > products):
        return "family"
    if target.name in fitted()["devices"]:
        return "device"
    return "architecture" if machine.family in fitted()["families"] else "none"


def _interval(p50_ms: float, seen: str) -> Interval:
    factor = exp(float(fitted()["half_widths"][seen]))
    return Interval(low=p50_ms / factor, high=p50_ms * factor)
