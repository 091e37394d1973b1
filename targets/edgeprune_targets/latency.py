"""The latency model: a roofline per kernel, read from the graph's own shapes. Its numbers are modelled, not measured.

    time = max(operations / rate, bytes / bandwidth) + launch

A matrix product runs in tiles and the tiles in waves over the SMs, so that a few rows less may gain nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Literal, TypeAlias

from edgeprune_targets.kernels import Kernel, kernels_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune_targets.profiles import Target

Precision: TypeAlias = Literal["fp32", "fp16"]

METHOD = "roofline per fused kernel with tile and wave quantisation; constants in the target's profile"
# Rows, columns, and share of the best tile's rate: small tiles reload their operands more often.
_TILES = ((128, 256, 1.0), (128, 128, 0.97), (64, 128, 0.85), (64, 64, 0.7), (32, 64, 0.5), (16, 64, 0.3))
_SPLITS = (1, 2, 4)  # a short product may split its sum over SMs, and pays for adding the parts up
_SPLIT_COST = 0.9
_ATTENTION_ROWS = 64
_ATTENTION_SHARE = 0.6  # of a matrix product's rate: softmax lies between the two products
_L2_GAIN = 3.0  # bandwidth of the level-2 cache over that of the memory, about, on all profiles
_SELECT_US = 6.0  # TopK sorts in several dependent steps; its cost hardly depends on a token count


@dataclass(frozen=True, slots=True)
class BlockLatency:
    """Modelled time of one transformer block; block -1 is what comes before the first."""

    block: int
    ms: float
    kernels: int


def model_latency_ms(model: ir.Model, target: Target, precision: Precision = "fp16") -> float:
    """Modelled latency of one run at the graph's static shapes, in milliseconds.

    Raises:
        TargetError: if a shape is unknown.
    """
    return sum(part.ms for part in latency_per_block(model, target, precision))


def latency_per_block(model: ir.Model, target: Target, precision: Precision = "fp16") -> tuple[BlockLatency, ...]:
    """The same in parts, ordered by block; the head counts with the last block.

    Raises:
        TargetError: if a shape is unknown.
    """
    kernels = kernels_of(model, precision)
    resident = sum(kernel.weight_bytes for kernel in kernels) < 0.5e6 * target.l2_mb
    times: dict[int, list[float]] = defaultdict(list)
    for kernel in kernels:
        times[kernel.block].append(kernel_ms(kernel, target, precision, resident=resident))
    return tuple(BlockLatency(block, sum(parts), len(parts)) for block, parts in sorted(times.items()))


def kernel_ms(kernel: Kernel, target: Target, precision: Precision, *, resident: bool) -> float:
    """Modelled time of one kernel in milliseconds.

    Args:
        kernel: shape and traffic.
        target: the device's numbers.
        precision: of the matrix products.
        resident: whether all weights stay in the level-2 cache from run to run.
    """
    compute_us = _compute_us(kernel, target, precision)
    bytes_a_us = target.memory_bandwidth_gbs * 1e3 * target.bandwidth_utilisation
    near = kernel.activation_bytes < 0.5e6 * target.l2_mb
    memory_us = kernel.weight_bytes / (bytes_a_us * (_L2_GAIN if resident else 1.0))
    memory_us += kernel.activation_bytes / (bytes_a_us * (_L2_GAIN if near else 1.0))
    return (max(compute_us, memory_us) + target.launch_overhead_us) / 1e3


def _compute_us(kernel: Kernel, target: Target, precision: Precision) -> float:
    if kernel.kind == "select":
        return _SELECT_US
    if kernel.kind == "pointwise":
        return 0.0
    rate = _flops_a_us(target, precision) / target.sms
    if kernel.kind == "attention":
        tiles = kernel.batch * ceil(kernel.m / _ATTENTION_ROWS)
        tile_flops = 4 * min(_ATTENTION_ROWS, _up(kernel.m, 16)) * _up(kernel.n, 16) * _up(kernel.k, 8)
        return _waves(tiles, target.sms) * tile_flops / (rate * _ATTENTION_SHARE)
    return min(_product_us(kernel, target.sms, rate, tile, split) for tile in _TILES for split in _SPLITS)


def _product_us(kernel: Kernel, sms: int, rate: float, tile: tuple[int, int, float], split: int) -> float:
    rows, columns, share = tile
    tiles = kernel.batch * ceil(kernel.m / rows) * ceil(kernel.n / columns) * split
    depth = ceil(_up(kernel.k, 32) / split)
    share = share if split == 1 else share * _SPLIT_COST
    return _waves(tiles, sms) * 2 * rows * columns * depth / (rate * share)


def _waves(tiles: int, sms: int) -> float:
    """Waves over the SMs; beyond the first, two tiles share an SM, which halves the loss in the last wave."""
    return max(1.0, ceil(2 * tiles / sms) / 2)


def _flops_a_us(target: Target, precision: Precision) -> float:
    """Rate of large products. fp32 runs as TF32, at half the fp16 rate, from compute capability 8.0 on."""
    if precision == "fp16":
        peak = target.fp16_fp32acc_tflops
    elif float(target.compute_capability) >= 8:
        peak = target.fp16_fp32acc_tflops / 2
    else:
        peak = target.fp32_tflops
    return peak * 1e6 * target.gemm_utilisation


def _up(size: int, multiple: int) -> int:
    return ceil(size / multiple) * multiple
