"""From a kernel's shape to its time: what the device could do at best, and the share of that which is reached.

    time of a kernel = (compute^2 + memory^2)^(1/2) + launch + ramp

`compute` counts whole tiles in whole waves at the peak rate, divided by a utilisation that falls for short sums;
`memory` the bytes at the peak bandwidth, divided by another. `launch` is what any kernel waits for, `ramp` what a
product needs to fill its pipeline; a slower clock stretches the ramp in full and the launch by its root, since part of
that is the driver's. The formulas take floats or numpy arrays alike, so that fit and prediction run the same lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from edgeprune_targets.kernels import Kernel

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
Coefficients: TypeAlias = Callable[[str], Any]

# Rows, columns, and share of the best tile's rate: small tiles reload their operands more often.
_TILES = ((128, 256, 1.0), (128, 128, 0.97), (64, 128, 0.85), (64, 64, 0.7), (32, 64, 0.5), (16, 64, 0.3))
_SPLITS = (1, 2, 4, 8)  # a short product may split its sum over SMs, and pays for adding the parts up
_SPLIT_COST = 0.9
_ATTENTION_ROWS = 64
# Picojoules a board takes for one fp16 operation, by process: 12 nm from V100 (300 W at about 95 TFLOPS), 7 nm from
# A100 (400 W at about 250), 4 nm from H100 (700 W at about 640). Memory: 6 to 7 pJ a bit.
_PJ_A_FLOP = {
    "maxwell": 12.0,
    "pascal": 9.0,
    "volta": 3.2,
    "turing": 3.2,
    "ampere-server": 1.6,
    "ampere": 1.8,
    "orin": 1.2,
}
_PJ_A_FLOP_ELSE = 1.1
_PJ_OF_PRECISION = {"fp32": 2.0, "fp16": 1.0, "int8": 0.5}
_PJ_A_BYTE = 50.0
_PRODUCTS = frozenset({"gemm", "conv", "depthwise", "attention"})
_TILED = frozenset({"gemm", "conv"})
_NEAR = 0.5  # share of the level-2 cache that one kernel's operands may fill and still be there


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The numbers of a device that the model reads.

    Attributes:
        family: whose coefficients hold: 'turing', 'ampere-server' ...
        sms: streaming multiprocessors.
        clock_mhz: of the SMs.
        bandwidth_gbs: of the memory, at its peak.
        l2_mb: level-2 cache.
        plain_tflops: fp32 on the plain cores.
        tflops: matrix products by precision, dense, accumulated in fp32.
        watts: power limit; 0 where it is not known.
    """

    family: str
    sms: int
    clock_mhz: float
    bandwidth_gbs: float
    l2_mb: float
    plain_tflops: float
    tflops: dict[str, float]
    watts: float


@dataclass(frozen=True, slots=True)
class Ideal:
    """One kernel at the device's peaks, in microseconds.

    Attributes:
        kind: which utilisation holds.
        compute_us: whole tiles in whole waves at the peak rate.
        shallow_us: the same over the length of the sums: a short sum does not fill a tile's pipeline.
        memory_us: bytes from the memory at the peak bandwidth.
        near_us: bytes that lie in the level-2 cache, at the peak bandwidth of the memory.
        cycles_us: 1000 cycles: how long a launch takes goes with the clock.
        energy_uj: what the operations and the bytes take, about.
    """

    kind: str
    compute_us: float
    shallow_us: float
    memory_us: float
    near_us: float
    cycles_us: float
    energy_uj: float


def ideal(kernel: Kernel, machine: Machine, precision: Precision, *, resident: bool) -> Ideal:
    """A kernel at the device's peaks.

    Args:
        kernel: shape and traffic.
        machine: the device.
        precision: of the matrix products.
        resident: whether all weights stay in the level-2 cache from run to run.
    """
    peak = machine.tflops[precision] * 1e6
    bytes_a_us = machine.bandwidth_gbs * 1e3
    near = kernel.activation_bytes < _NEAR * 1e6 * machine.l2_mb
    close = kernel.weight_bytes * resident + kernel.activation_bytes * near
    far = kernel.weight_bytes + kernel.activation_bytes - close
    compute_us = _compute_us(kernel, machine, peak)
    return Ideal(
        kind=kernel.kind,
        compute_us=compute_us,
        shallow_us=compute_us / max(1, kernel.k),
        memory_us=far / bytes_a_us,
        near_us=close / bytes_a_us,
        cycles_us=1e3 / machine.clock_mhz,
        energy_uj=kernel.flops * _joules(machine, precision) * 1e-6 + far * _PJ_A_BYTE * 1e-6,
    )


def is_resident(weight_bytes: int, machine: Machine) -> bool:
    """Whether all weights of a model stay in the level-2 cache from run to run."""
    return weight_bytes < _NEAR * 1e6 * machine.l2_mb


def _joules(machine: Machine, precision: Precision) -> float:
    """Picojoules of one operation."""
    return _PJ_A_FLOP.get(machine.family, _PJ_A_FLOP_ELSE) * _PJ_OF_PRECISION[precision]


def _compute_us(kernel: Kernel, machine: Machine, peak: float) -> float:
    shape = (kernel.batch, kernel.m, kernel.n, kernel.k)
    if kernel.kind == "attention":
        tiles = kernel.batch * ceil(kernel.m / _ATTENTION_ROWS)
        tile_flops = 4 * min(_ATTENTION_ROWS, _up(kernel.m, 16)) * _up(kernel.n, 16) * _up(kernel.k, 8)
        return _waves(tiles, machine.sms) * tile_flops * machine.sms / peak
    if kernel.kind == "depthwise":
        return kernel.flops / (machine.plain_tflops * 1e6)
    if kernel.kind in {"gemm", "conv"}:
        return _product_flops(shape, machine.sms) / peak
    return 0.0


@cache
def _product_flops(shape: tuple[int, int, int, int], sms: int) -> float:
    """Operations that pass while the best tile's waves run, on all SMs together."""
    return min(_tiled(shape, sms, tile, split) for tile in _TILES for split in _SPLITS)


def _tiled(shape: tuple[int, int, int, int], sms: int, tile: tuple[int, int, float], split: int) -> float:
    batch, m, n, k = shape
    rows, columns, share = tile
    tiles = batch * ceil(m / rows) * ceil(n / columns) * split
    depth = ceil(_up(k, 32) / split)
    share = share if split == 1 else share * _SPLIT_COST
    return _waves(tiles, sms) * sms * 2 * rows * columns * depth / share


def _waves(tiles: int, sms: int) -> float:
    """Waves over the SMs; beyond the first, two tiles share an SM, which halves the loss in the last wave."""
    return max(1.0, ceil(2 * tiles / sms) / 2)


def _up(size: int, multiple: int) -> int:
    return ceil(size / multiple) * multiple


def terms_of(name: str, *situation: str) -> tuple[str, ...]:
    """Keys of the terms that add up to the logarithm of a coefficient: its own, and one for each word that applies."""
    return (name, *(f"{name}/{word}" for word in situation))


def kernel_parts(part: Ideal, at: Coefficients) -> tuple[Any, Any, Any]:
    """Compute, memory and launch of one kernel in microseconds.

    Args:
        part: at the peaks; a float a field, or an array a field of kernels of one kind.
        at: coefficient by name, for the device, the runtime and the precision.
    """
    filled = part.compute_us + at("shallow") * part.shallow_us if part.kind in _TILED else part.compute_us
    compute = filled / at(part.kind) if part.kind in _PRODUCTS else 0.0
    memory = (part.memory_us + part.near_us / at("near")) / at("memory")
    launch = at("select" if part.kind == "select" else "launch") * part.cycles_us**0.5
    ramp = at("ramp") * part.cycles_us if part.kind in _PRODUCTS else 0.0
    return compute, memory, launch + ramp


def kernel_us(part: Ideal, at: Coefficients) -> Any:
    """Time of one kernel in microseconds; arguments as of `kernel_parts`."""
    compute, memory, launch = kernel_parts(part, at)
    return (compute**2 + memory**2) ** 0.5 + launch


def held_back(total_us: Any, energy_uj: Any, watts: Any, at: Coefficients) -> Any:
    """Time of a run under the power limit: neither less than its kernels take, nor than its energy allows."""
    return (total_us**8 + (energy_uj * at("energy") / watts) ** 8) ** 0.125
