"""Prove what was compiled: identity, exactness, drift."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.errors import ValidationError
from edgeprune.core.results import Validation
from edgeprune.options import HIGHER_IS_BETTER
from edgeprune_calibration.drift import measure_drift
from edgeprune_calibration.oracle import find_sites, prove
from edgeprune_calibration.runner import Runner
from edgeprune_passes._output import require_readout
from edgeprune_passes.apply import apply_plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from edgeprune.compiler.opening.loading import Loaded
    from edgeprune.core.plan import Plan
    from edgeprune.core.progress import Progress
    from edgeprune.core.results import Drift, Exactness
    from edgeprune_calibration.data import Dataset
    from edgeprune_calibration.reference import Recording, Reference

Feed = dict[str, "np.ndarray"]


def is_identity(loaded: Loaded, plan: Plan, feed: Feed, threads: int) -> bool:
    """Whether the same cuts with every token kept give the dense outputs bit for bit.

    The tail is left as it is and the runtime rewrites nothing: both would change the order of sums.
    """
    whole = tuple(replace(cut, keep=plan.patch_tokens) for cut in plan.cuts)
    output = replace(plan.output, keep=plan.patch_tokens) if plan.output is not None else None
    model = loaded.dense.clone()
    apply_plan(model, replace(plan, cuts=whole, output=output, eliminate_tail=False))
    kept = Runner(model, threads=threads, optimise=False).run(feed)
    dense = Runner(loaded.dense, threads=threads, optimise=False).run(feed)
    return all(np.array_equal(kept[name], dense[name]) for name in dense)


def exactness(loaded: Loaded, pruned: ir.Model, plan: Plan, feed: Feed, threads: int) -> Exactness | None:
    """The pruned graph against the masked dense one; None if the plan cuts nothing."""
    if not plan.cuts and plan.output is None:
        return None
    blocks = [loaded.found.block(cut.block) for cut in plan.cuts]
    cuts = [block.cut for block in blocks if block is not None]
    if plan.output is not None:
        cuts.append(require_readout(loaded.dense, loaded.found).value)
    sites = find_sites(pruned, plan, [str(value.name) for value in cuts if value is not None])
    return prove(loaded.dense, pruned, plan, sites, [((), feed)], threads=threads)


def drift_of(
    reference: Recording | Reference, pruned: ir.Model, data: Dataset, *, batch: int, threads: int, progress: Progress
) -> dict[str, Drift]:
    """Drift of the pruned model on data."""
    return measure_drift(reference, Runner(pruned, threads=threads), data, batch=batch, progress=progress)


def check_limits(validation: Validation, limits: Mapping[str, float]) -> None:
    """Hold the drift against the user's limits.

    Raises:
        ValidationError: naming the first output and metric past its limit.
    """
    for metric, limit in limits.items():
        for output, drift in validation.drift.items():
            value = getattr(drift, metric)
            if value is None:
                continue
            past = value < limit if metric in HIGHER_IS_BETTER else value > limit
            if past:
                msg = f"{metric} of output `{output}` is {value:.4g}, past the limit {limit:g}"
                raise ValidationError(msg, hint="keep more tokens, try another strategy, or give more --search")
