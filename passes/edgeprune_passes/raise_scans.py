"""Write every selective scan, however an export spells it, as the one operator of `edgeprune.core.scans`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnx_ir.passes import common

from edgeprune.core.errors import PassError
from edgeprune.core.graph import name_of
from edgeprune.core.passes import PassResult
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.scans import carry_function, selective_scans
from edgeprune_passes.scans._declined import DeclinedError
from edgeprune_passes.scans._edit import let_go
from edgeprune_passes.scans._tidy import tidy_result
from edgeprune_passes.scans.causal_conv import trim_convolutions
from edgeprune_passes.scans.custom_op import expand_scans
from edgeprune_passes.scans.flips import cancel_flips, drop_idle_slices, unify_flips
from edgeprune_passes.scans.foreign import foreign_scans
from edgeprune_passes.scans.left_products import turn_left_products
from edgeprune_passes.scans.loop_node import roll_loops
from edgeprune_passes.scans.scan_node import raise_scan
from edgeprune_passes.scans.softplus import plain_softplus
from edgeprune_passes.scans.unrolled import roll_up

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class RaiseScans:
    """Raise Scan, Loop, unrolled recurrences and custom operators to `edgeprune::SelectiveScan`.

    Rule: h_t = a_t * h_(t-1) + b_t with a = exp(step * A), b = input * B, and y = h . C.

    Refuses: recurrences that are none: each stays as it is, or rolled up.
    Cost: removes nodes; the scan itself computes what it did.
    Source: Gu and Dao, Mamba (arXiv 2312.00752), section 3.
    """

    name: ClassVar[str] = "raise-scans"

    def apply(self, model: ir.Model) -> PassResult:
        """Rewrite `model` in place."""
        plain = [rewrite(model) for rewrite in (expand_scans, roll_up, roll_loops)]
        loops = [node for node in model.graph if node.op_type == "Scan" and node.domain == ""]
        refusals = [refusal for node in loops if (refusal := _raised(model, node)) is not None]
        raised = len(loops) - len(refusals)
        smaller = unify_flips(model) + cancel_flips(model) + trim_convolutions(model) + plain_softplus(model)
        smaller += drop_idle_slices(model) + turn_left_products(model) if raised else 0
        if loops or smaller:
            common.RemoveUnusedNodesPass()(model)
        if raised:
            carry_function(model)
        written = sum(count for count, _ in plain)
        refusals = [*(one for _, many in plain for one in many), *refusals]
        if not refusals and not selective_scans(model.graph):
            refusals = foreign_scans(model)
        return PassResult(model, written + raised + smaller, tuple(refusals))


def _raised(model: ir.Model, node: ir.Node) -> Refusal | None:
    try:
        tidy_result(model, raise_scan(model, node))
    except DeclinedError as declined:
        return declined.refusal
    except PassError as error:
        # What the body computes cannot be written for all tokens at once: the loop is left as it was.
        return Refusal(RefusalCode.NOT_SELECTIVE_SCAN, error.message, (name_of(node),))
    let_go(node)
    return None
