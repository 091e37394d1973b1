"""Apply a plan: the passes that it stands for, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_ir.passes import common

from edgeprune.core.passes import PassResult, Pipeline
from edgeprune.core.plan import SUBLAYERS
from edgeprune_passes.eliminate_tail import EliminateTail
from edgeprune_passes.reduce_tokens import ReduceTokens
from edgeprune_passes.registry import make_pass
from edgeprune_passes.remove_channels import RemoveChannels
from edgeprune_passes.remove_sublayers import RemoveSublayers

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.passes import Pass
    from edgeprune.core.plan import Plan
    from edgeprune.core.widths.arrays import Arrays

# What exporters write and runtimes read; a newer number would lock older runtimes out.
_IR_VERSION = 10


def apply_plan(model: ir.Model, plan: Plan, arrays: Arrays | None = None) -> PassResult:
    """Rewrite a model in canonical form by a plan, in place.

    Widths go first, while every block still has its whole attention, and sublayers next: no cut of tokens is in a block
    that loses its attention. Then the last block's tail: cuts above it find it as it is, and none is ever made inside.

    Args:
        model: is rewritten.
        plan: what to do.
        arrays: the units that widths keep, and the weights solved for them; see `core.widths.arrays`.

    Raises:
        PlanError: if a cut cannot be made.
        PassError: if a pass broke the graph.
    """
    narrow = tuple(cut for cut in plan.widths if cut.kind not in SUBLAYERS)
    whole = tuple(cut for cut in plan.widths if cut.kind in SUBLAYERS)
    widths: list[Pass] = [RemoveChannels(narrow, arrays or {})] if narrow else []
    widths += [RemoveSublayers(whole, arrays or {})] if whole else []
    tail = (EliminateTail(),) if plan.eliminate_tail else ()
    more = tuple(make_pass(spec) for spec in plan.passes)
    reduce = ReduceTokens(cuts=plan.cuts, restore=plan.restore, output=plan.output, alignment=plan.alignment)
    result = Pipeline(passes=(*widths, *tail, reduce, *more)).apply(model)
    common.RemoveUnusedNodesPass()(model)
    return PassResult(model, result.changes, result.refusals)


def finish(model: ir.Model, plan_json: bytes) -> None:
    """Make a rewritten model ready to be saved: its plan inside, and a version that runtimes read."""
    model.metadata_props["edgeprune.plan"] = plan_json.decode()
    model.producer_name = "edgeprune"
    model.ir_version = min(model.ir_version, _IR_VERSION)
