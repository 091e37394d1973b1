"""Apply a plan: the passes that it stands for, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_ir.passes import common

from edgeprune.core.passes import PassResult, Pipeline
from edgeprune_passes.eliminate_tail import EliminateTail
from edgeprune_passes.reduce_tokens import ReduceTokens
from edgeprune_passes.registry import make_pass

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.plan import Plan

# What exporters write and runtimes read; a newer number would lock older runtimes out.
_IR_VERSION = 10


def apply_plan(model: ir.Model, plan: Plan) -> PassResult:
    """Rewrite a model in canonical form by a plan, in place.

    The last block's tail goes first: cuts above it then find it as it is, and no cut is ever made inside it.

    Raises:
        PlanError: if a cut cannot be made.
        PassError: if a pass broke the graph.
    """
    tail = (EliminateTail(),) if plan.eliminate_tail else ()
    more = tuple(make_pass(spec) for spec in plan.passes)
    reduce = ReduceTokens(cuts=plan.cuts, restore=plan.restore, output=plan.output)
    result = Pipeline(passes=(*tail, reduce, *more)).apply(model)
    common.RemoveUnusedNodesPass()(model)
    return PassResult(model, result.changes, result.refusals)


def finish(model: ir.Model, plan_json: bytes) -> None:
    """Make a rewritten model ready to be saved: its plan inside, and a version that runtimes read."""
    model.metadata_props["edgeprune.plan"] = plan_json.decode()
    model.producer_name = "edgeprune"
    model.ir_version = min(model.ir_version, _IR_VERSION)
