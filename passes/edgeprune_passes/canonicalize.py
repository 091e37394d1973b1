"""Bring an export to canonical form: static shapes, constants folded, no Shape chains, attention as plain operators."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from edgeprune.core.errors import ModelError
from edgeprune.core.graph import static_shape
from edgeprune.core.passes import PassResult
from edgeprune_passes._decompose import decompose_attention
from edgeprune_passes._guards import remove_dummy_masks
from edgeprune_passes.raise_scans import RaiseScans
from edgeprune_passes.scans._stand_ins import stand_ins
from edgeprune_passes.scans.custom_op import expand_scans
from edgeprune_passes.scans.loop_node import roll_loops
from edgeprune_passes.scans.unrolled import roll_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Folding is meant to reach every Shape chain and every literal; a cap would leave some behind.
_NO_LIMIT = 1 << 31


@dataclass(frozen=True, slots=True)
class Canonicalize:
    """Make every shape static and fold what is constant then.

    Rule: the flow rewrites every literal, so literals are what it wants: fold first, on declared shapes.

    Attributes:
        inputs: static shapes of graph inputs by name; they replace symbolic dimensions.
        batch: used for a symbolic first dimension that `inputs` does not declare.

    Refuses: recurrences that are no selective scans, which stay as they are.
    Raises: `ModelError` where a dimension stays unknown, or the declared shape contradicts the file.
    Cost: removes nodes; adds none but for decomposed Attention operators.
    Source: none.
    """

    name: ClassVar[str] = "canonicalize"
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    batch: int = 1

    def apply(self, model: ir.Model) -> PassResult:
        """Rewrite `model` in place."""
        before = len(model.graph)
        self._declare_shapes(model)
        common.InlinePass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.RemoveUnusedNodesPass()(model)
        changes = _fold_with_loops(model)
        scans = RaiseScans().apply(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, changes + scans.changes + abs(before - len(model.graph)), scans.refusals)

    def _declare_shapes(self, model: ir.Model) -> None:
        names = {value.name for value in model.graph.inputs}
        for name in self.inputs:
            if name not in names:
                msg = f"the model has no input `{name}`; it has {', '.join(sorted(map(str, names)))}"
                raise ModelError(msg, hint="name an input of the model in --input NAME:1x3x224x224")
        for value in model.graph.inputs:
            value.shape = ir.Shape(self._shape_of(value))
        for node in model.graph:
            for output in node.outputs:
                if static_shape(output) is None:
                    output.shape = None

    def _shape_of(self, value: ir.Value) -> tuple[int, ...]:
        declared = self.inputs.get(str(value.name))
        if value.shape is None:
            if declared is None:
                msg = f"input `{value.name}` has no shape"
                raise ModelError(msg, hint=f"declare it: --input {value.name}:1x3x224x224")
            return declared
        own = tuple(dim if isinstance(dim, int) else None for dim in value.shape)
        wanted: tuple[int | None, ...] = declared or tuple(
            self.batch if i == 0 and dim is None else dim for i, dim in enumerate(own)
        )
        if len(wanted) != len(own) or any(o is not None and o != w for o, w in zip(own, wanted, strict=True)):
            msg = f"input `{value.name}` is {shown(value.shape)} in the file, declared as {list(wanted)}"
            raise ModelError(msg, hint="export the model with dynamic axes, or declare the shape it was exported with")
        known = tuple(dim for dim in wanted if dim is not None)
        if len(known) < len(wanted):
            unknown = list(value.shape)
            msg = f"input `{value.name}` has unknown dimensions {unknown}; the number of tokens would be a guess"
            raise ModelError(msg, hint=f"declare its shape: --input {value.name}:1x3x224x224")
        return known


def shown(shape: ir.Shape) -> str:
    """A shape as people write it: `[batch, 3, 224, 224]`."""
    dims = (str(dim) if isinstance(dim, int) else str(dim.value or "?") for dim in shape)
    return f"[{', '.join(dims)}]"


def _fold_with_loops(model: ir.Model) -> int:
    """Fold, with loops rolled up and shapes behind them; Attention operators and dummy masks written plainly, counted.

    A Loop whose number of steps is a constant only now has a shape now, so that more can be folded behind it.
    """
    expand_scans(model)
    roll_up(model)
    roll_loops(model)
    changes = 0
    while True:
        with stand_ins(model):
            _fold(model)
            found = decompose_attention(model) + remove_dummy_masks(model)
            if found:
                _fold(model)
        changes += found
        if not roll_loops(model)[0]:
            return changes


def _fold(model: ir.Model) -> None:
    """Fold constants and infer shapes until nothing changes.

    ConstantOfShape is on the folder's own stop list; without it, exports that expand a class token stay shapeless.
    """
    from onnxscript.optimizer import fold_constants

    with _quiet("onnxscript"):
        fold_constants(
            model,
            onnx_shape_inference=True,
            input_size_limit=_NO_LIMIT,
            output_size_limit=_NO_LIMIT,
            should_fold=lambda node: True if node.op_type == "ConstantOfShape" else None,
        )


@contextmanager
def _quiet(library: str) -> Iterator[None]:
    """Keep a library's warnings off the terminal: what it cannot fold stays as it is, and no user can act on that."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
