"""Parts of the benchmark of structure that divide one budget among axes: every mix is realised and scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from _score import pixels

from edgeprune.compiler.deciding.budgets import Budget
from edgeprune.compiler.deciding.plans import Judge
from edgeprune.compiler.job import Job
from edgeprune.compiler.opening.loading import opened
from edgeprune.compiler.structuring.axes import Axes
from edgeprune.compiler.structuring.latency_budget import modelled_latency
from edgeprune.compiler.structuring.mixes import mixes
from edgeprune.core.errors import PlanError
from edgeprune.core.progress import SILENT
from edgeprune.options import Options
from edgeprune_targets.profiles import load_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from _structure import Scorer

    from edgeprune.compiler.structuring.mixes import Mix

AXES = ("mlp", "head-size", "sublayers")


def realised(  # noqa: PLR0913 - a model, data, and what to make of it
    model: Path,
    data: Path,
    *,
    shares: Sequence[float] = (),
    latency: float = 0.0,
    target: str = "",
    threads: int = 2,
    wanted: Callable[[Mix], bool] = lambda mix: True,  # noqa: ARG005
) -> Iterator[tuple[float, Mix, ir.Model | str]]:
    """Mixes of widths and sublayers at shares of the MACs, or at one of the modelled latency, as graphs."""
    options = Options(data=data, threads=threads, latency=latency or None, axes=AXES)
    with opened(model, options) as loaded:
        job = Job(loaded, options, load_targets(target) if target else (), SILENT)
        assert job.recording is not None
        assert job.data is not None
        judge = Judge(job.recording, job.data, job.batch, threads)  # all of them: others are scored
        price, budget = modelled_latency(job.bench, job.targets) if latency else (None, None)
        for share in [latency] if latency else shares:
            axes = Axes(job.bench, budget or Budget("macs", share), judge, SILENT, job.targets, price)
            yield from ((share, mix, _tried(axes, mix)) for mix in mixes(AXES, params=False) if wanted(mix))


def _tried(axes: Axes, mix: Mix) -> ir.Model | str:
    """The graph of a mix, or why there is none."""
    try:
        return axes.realise(mix)
    except PlanError as error:
        return error.message


def rows_of_mixes(found: Iterator[tuple[float, Mix, ir.Model | str]], scorer: Scorer) -> list[dict[str, object]]:
    """One row a mix."""
    return [
        {"asked": share, "method": mix.name, **({"refused": made} if isinstance(made, str) else scorer.row(made))}
        for share, mix, made in found
    ]


def saved_pixels(paths: Sequence[Path], name: str, place: Path) -> Path:
    """Prepared photographs as a file of samples."""
    np.savez(place, **{name: np.concatenate([pixels(path) for path in paths])})
    return place
