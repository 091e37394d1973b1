"""What each cut of a width would cost, one at a time: measured on data, nothing is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.compiler.deciding.plans import Judge
from edgeprune.compiler.job import Job
from edgeprune.compiler.structuring.structure import Structure
from edgeprune.compiler.structuring.width_levels import levels_of, macs_of_unit
from edgeprune.core.plan import StrategySpec
from edgeprune.core.widths.find import find_widths
from edgeprune.report.inspection import WidthCost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeprune.compiler.opening.loading import Loaded
    from edgeprune.compiler.structuring.structure import Item
    from edgeprune.core.progress import Progress
    from edgeprune.options import Options

# Shares that are shown, each at the nearest count that runs fast.
_SHARES = (0.9, 0.75, 0.5)
# Samples on which each sublayer is tried.
_TRIED = 8


def sensitivity_of(loaded: Loaded, options: Options, progress: Progress) -> tuple[WidthCost, ...]:
    """The costs of every width of a model at a few counts.

    Raises:
        DataError: if there is no data, or too little.
    """
    job = Job(loaded, options, (), progress)
    widths = find_widths(loaded.dense, loaded.found)
    every: tuple[Item, ...] = (*widths.groups, *widths.sublayers)
    kinds = tuple(dict.fromkeys(item.kind for item in every))
    if not kinds:
        return ()
    whole = (job.bench.patches,) * len(job.bench.cost.blocks)
    structure = Structure(job.bench, job.bench.plan(StrategySpec(name="keep-all"), whole), kinds)
    structure.measure(job.data, job.batch, progress)
    if job.data is not None and job.recording is not None and structure.widths.sublayers:
        few = job.data.subset(range(min(_TRIED, len(job.data))))
        structure.try_sublayers(Judge(job.recording, few, job.batch, options.threads), progress)
    with progress.stage("widths", len(structure.items)) as stage:
        rows: list[WidthCost] = []
        for group in structure.items:
            unit = macs_of_unit(loaded.dense, group) / job.bench.dense_macs
            counts = sorted(_counts(group))  # the fewest first: the order of what goes is made once
            rows += [_cost(structure, group, keep, unit) for keep in counts]
            stage.advance(1)
    return tuple(rows)


def _counts(group: Item) -> Iterator[int]:
    levels = [level for level in levels_of(group) if level < group.size]
    wanted = [min(levels, key=lambda level: abs(level - share * group.size)) for share in _SHARES if levels]
    yield from dict.fromkeys(wanted)


def _cost(structure: Structure, group: Item, keep: int, unit: float) -> WidthCost:
    return WidthCost(
        kind=group.kind,
        block=group.block,
        number=group.number,
        keep=keep,
        of=group.size,
        macs=unit * (group.size - keep),
        loss=structure.loss(group, keep),
    )
