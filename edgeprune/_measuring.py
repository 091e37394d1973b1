"""Time what can be timed here: dense and pruned in ONNX Runtime on this machine's processor, in turn."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from edgeprune.core.results import Latency
from edgeprune_calibration.runner import Runner

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

_WARM_UP = 2
_PAIRS = 15


def cpu_latency(dense: ir.Model, pruned: ir.Model, feed: dict[str, np.ndarray], threads: int) -> Latency:
    """Median latency of both, measured in interleaved pairs, so that a busy machine slows both alike."""
    runners = Runner(dense, threads=threads), Runner(pruned, threads=threads)
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(_WARM_UP + _PAIRS):
        for runner, taken in zip(runners, times, strict=True):
            start = time.perf_counter()
            runner.run(feed)
            if pair >= _WARM_UP:
                taken.append((time.perf_counter() - start) * 1e3)
    before, after = median(times[0]), median(times[1])
    return Latency(
        target="onnxruntime-cpu",
        kind="measured",
        dense_p50_ms=before,
        pruned_p50_ms=after,
        speedup=before / after,
        method=f"ONNX Runtime on this machine's processor, fp32, {_PAIRS} interleaved pairs",
    )
