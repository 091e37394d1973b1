"""Remove sublayers: let a constant row stand for a whole attention or MLP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from onnx_ir.passes import common

from edgeprune.core.errors import PlanError
from edgeprune.core.graph import PREFIX
from edgeprune.core.passes import PassResult
from edgeprune.core.plan import SUBLAYERS
from edgeprune.core.recognition import recognize
from edgeprune.core.tape import add_initializer, fresh_name
from edgeprune.core.widths.find import find_widths
from edgeprune.core.widths.groups import group_name

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.plan import WidthCut
    from edgeprune.core.widths.groups import Sublayer, Widths


@dataclass(frozen=True, slots=True)
class RemoveSublayers:
    """Where an attention or an MLP is added to the residual stream, add the mean of what it added instead.

    Rule: x + f(x) becomes x + c, and what was computed for f alone goes. The Add takes a name that says which block's
    sublayer it stands for, so that the blocks behind keep their numbers.

    Attributes:
        cuts: which sublayers.
        arrays: `<sublayer>/mean`, the row c; see `core.widths.arrays`.

    Raises: `PlanError` if a block has no such sublayer, or a row does not fit it.
    Cost: removes all MACs and parameters of the sublayer; the Add stays.
    Source: none; dropped layers with a mean in their place are those of ZipLM, arXiv 2302.04089, where keep may be 0.
    """

    name: ClassVar[str] = "remove-sublayers"
    cuts: tuple[WidthCut, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def apply(self, model: ir.Model) -> PassResult:
        """Rewrite `model` in place."""
        if not self.cuts:
            return PassResult(model, 0)
        widths = find_widths(model, recognize(model), SUBLAYERS)
        found = [_sublayer(widths, cut) for cut in self.cuts]
        for sublayer in found:
            self._replace(model, sublayer)
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, len(found))

    def _replace(self, model: ir.Model, sublayer: Sublayer) -> None:
        mean = self.arrays.get(f"{sublayer.name}/mean")
        if mean is None or mean.shape != sublayer.row:
            found = "nothing" if mean is None else str(list(mean.shape))
            msg = f"`{sublayer.name}/mean` is {found} in the file of widths, the model needs {list(sublayer.row)}"
            raise PlanError(msg, hint="keep plan.json and the widths.npz that was written with it together")
        old = sublayer.join.inputs[sublayer.index]
        assert old is not None
        place = f"{PREFIX}{sublayer.kind}/{sublayer.block}"
        dtype = old.dtype.numpy() if old.dtype is not None else np.float32
        row = add_initializer(model, mean.astype(dtype), fresh_name(model, f"{place}/mean"))
        sublayer.join.replace_input_with(sublayer.index, row)
        sublayer.join.name = fresh_name(model, f"{place}/add")


def _sublayer(widths: Widths, cut: WidthCut) -> Sublayer:
    name = group_name(cut.kind, cut.block, cut.number)
    found = widths.sublayer(name)
    if found is None:
        why = f": {widths.refusals[0]}" if widths.refusals else ""
        msg = f"the model has no {name}{why}"
        raise PlanError(msg, hint="`edgeprune inspect` lists what was recognised")
    return found
