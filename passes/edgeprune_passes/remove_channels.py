"""Remove channels: make the MLPs, the heads and the head sizes of a plan physically smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeprune.core.errors import PlanError
from edgeprune.core.passes import PassResult
from edgeprune.core.recognition import recognize
from edgeprune.core.widths.find import find_widths
from edgeprune.core.widths.groups import group_name
from edgeprune_passes._narrow import narrow, put_solved

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.plan import WidthCut
    from edgeprune.core.widths.groups import WidthGroup, Widths


@dataclass(frozen=True, slots=True)
class RemoveChannels:
    """Take units out of every constant that has them, and count them anew in every literal that names their number.

    Rule: the columns of the projections that make a unit, whatever is aligned with it, and the rows of the weight that
    contracts it go together; then the weights that were solved for what stays take the place of the rest.

    Attributes:
        cuts: which widths, and how many units stay.
        arrays: `<group>/kept`, the units that stay, and the weights solved for them; see `core.widths.arrays`.

    Raises: `PlanError` if a block has no such width, or the arrays do not fit it.
    Cost: removes MACs and parameters in proportion; adds an Add where a mean is folded into a product without bias.
    Source: none; the coupled groups are those of DepGraph, arXiv 2301.12900, found by axis flow.
    """

    name: ClassVar[str] = "remove-channels"
    cuts: tuple[WidthCut, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def apply(self, model: ir.Model) -> PassResult:
        """Rewrite `model` in place."""
        changes = 0
        for kind, cuts in groupby(self.cuts, key=lambda cut: cut.kind):
            widths = find_widths(model, recognize(model), (kind,))
            for cut in cuts:
                self._cut(model, widths, cut)
                changes += 1
        return PassResult(model, changes)

    def _cut(self, model: ir.Model, widths: Widths, cut: WidthCut) -> None:
        group = _group(widths, cut)
        kept = self.arrays.get(f"{group.name}/kept")
        if group.size != cut.of or kept is None or len(set(kept.tolist())) != cut.keep or kept.max() >= group.size:
            found = f"the model has {group.size} units, the file keeps {0 if kept is None else len(set(kept.tolist()))}"
            msg = f"{group.name} keeps {cut.keep} of {cut.of} in the plan; {found}"
            raise PlanError(msg, hint="keep plan.json and the widths.npz that was written with it together")
        narrow(model, group, group.mask(kept))
        put_solved(model, group, self.arrays)


def _group(widths: Widths, cut: WidthCut) -> WidthGroup:
    name = group_name(cut.kind, cut.block, cut.number)
    group = widths.named(name)
    if group is None:
        why = f": {widths.refusals[0]}" if widths.refusals else ""
        msg = f"the model has no width {name}{why}"
        raise PlanError(msg, hint="`edgeprune inspect` lists what was recognised")
    return group
