"""The fitted coefficients of the latency model, and a device as the model sees it."""

from __future__ import annotations

import json
from functools import cache
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune_targets._utilisation import Coefficients, Machine, terms_of

if TYPE_CHECKING:
    from edgeprune_targets.target import Target

_FILE = Path(__file__).with_name("latency_fit.json")
_FAMILIES = {
    "5": "maxwell", "6": "pascal", "7.0": "volta", "7.2": "volta", "7.5": "turing", "8.0": "ampere-server",
    "8.6": "ampere", "8.7": "orin", "8.9": "ada", "9": "hopper", "10": "blackwell-server", "11": "thor",
    "12": "blackwell",
}  # fmt: skip
_WATTS_UNKNOWN = 1e6  # no limit


def family_of(compute_capability: str) -> str:
    """Architecture family that coefficients are kept for: 'turing', 'orin' ..."""
    major = compute_capability.partition(".")[0]
    return _FAMILIES.get(compute_capability) or _FAMILIES.get(major) or "unknown"


def machine_of(target: Target) -> Machine:
    """The numbers that the latency model reads. fp32 products run as TF32 from compute capability 8.0 on."""
    tensor = target.fp16_fp32acc_tflops
    tf32 = tensor / 2 if float(target.compute_capability) >= 8 else target.fp32_tflops
    return Machine(
        family=family_of(target.compute_capability),
        sms=target.sms,
        clock_mhz=target.gpu_clock_mhz,
        bandwidth_gbs=target.memory_bandwidth_gbs,
        l2_mb=target.l2_mb,
        plain_tflops=target.fp32_tflops,
        tflops={"fp16": tensor, "fp32": tf32, "int8": target.int8_dense_tops or tensor},
        watts=target.tdp_w or _WATTS_UNKNOWN,
    )


@cache
def fitted() -> dict[str, Any]:
    """What the fit left: `terms` by key, and the held-out errors that intervals are made of."""
    content: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return content


def coefficients(family: str, precision: str) -> Coefficients:
    """Coefficient by name for one architecture family and precision, on TensorRT."""
    terms: dict[str, float] = fitted()["terms"]

    @cache
    def at(name: str) -> float:
        return exp(sum(terms.get(key, 0.0) for key in terms_of(name, family, precision, "tensorrt")))

    return at
