"""Keep whole rows of the patch grid: lines of text stay together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune.core.errors import PlanError
from edgeprune_passes._layout import reshape
from edgeprune_passes.received import check_score, received, refuse_received
from edgeprune_passes.scores import ascending, kept_sizes, ranked, with_prefix
from edgeprune_passes.selection import Selection

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.recognition import Block
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.tape import Tape
    from edgeprune_passes.selection import Site


@dataclass(frozen=True, slots=True)
class FopruRow:
    """Score of a row: the sum of the attention that its patch tokens receive; keep the K / columns highest rows.

    Where K is no multiple of the columns, the last of these rows is kept in part, from its start on.

    Attributes:
        score: as of `fopru-rank`.
        threshold: as of `fopru-rank`.

    Refuses: as `fopru-rank`; a grid that is not known or not whole any more is an error of the plan.
    Cost: that of the score, and a TopK of the rows.
    Source: FoPru, arXiv 2411.14164, row strategy.
    """

    name: ClassVar[str] = "fopru-row"
    source: ClassVar[str] = "FoPru, arXiv 2411.14164"
    merges: ClassVar[bool] = False
    score: str = "auto"
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Check the name of the score."""
        check_score(self.score)

    def refuses(self, block: Block, prefix: int) -> Refusal | None:
        """Needs queries and keys, and a class token for its row."""
        return refuse_received(block, prefix, self.score)

    def fewest(self, patches: int, prefix: int) -> int:
        """One."""
        del patches, prefix
        return 1

    def nearest(self, keep: int, grid: tuple[int, int] | None) -> int:
        """Whole rows, the nearest to a wanted count; at least one."""
        return keep if grid is None else max(1, round(keep / grid[1])) * grid[1]

    def emit(self, site: Site, keep: int, tape: Tape) -> Selection:
        """Write the sums of rows, keep the highest, and name their tokens.

        Raises:
            PlanError: if the tokens are not whole rows.
        """
        rows, columns = _grid(site)
        scores = reshape(tape, received(site, tape, self.score, self.threshold), [site.batch, rows, columns])
        taken = -(-keep // columns)
        best = ranked(tape, tape.reduce("ReduceSum", scores, 2), taken)
        part = keep - (taken - 1) * columns
        if part == columns:
            index = _tokens(site, tape, ascending(tape, best), (taken, columns, columns))
        else:
            last = _tokens(site, tape, tape.slice(best, 1, taken - 1, taken), (1, part, columns))
            whole = tape.slice(best, 1, 0, taken - 1) if taken > 1 else None
            first = [] if whole is None else [_tokens(site, tape, whole, (taken - 1, columns, columns))]
            index = ascending(tape, tape.op("Concat", *first, last, axis=1))
        index = with_prefix(site, tape, index)
        return Selection(index, size=kept_sizes(site, tape, index))


def _tokens(site: Site, tape: Tape, rows: ir.Value, shape: tuple[int, int, int]) -> ir.Value:
    """Patches of `rows` [B,R]: the first so many of each. `shape`: R, patches of each, columns of the grid."""
    count, each, columns = shape
    first = tape.op("Unsqueeze", tape.op("Mul", rows, tape.ints([columns])), tape.ints([2]))
    tokens = tape.op("Add", first, tape.constant(np.arange(each, dtype=np.int64)[None, None]))
    return reshape(tape, tokens, [site.batch, count * each])


def _grid(site: Site) -> tuple[int, int]:
    if site.grid is None or site.grid[0] * site.grid[1] != site.patches:
        msg = f"fopru-row needs whole rows of patches, {site.patches} tokens are left of the grid {site.grid}"
        raise PlanError(msg, hint="use fopru-rank, or cut nothing before")
    return site.grid
