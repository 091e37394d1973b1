"""From the canonical graph to the one that a runtime is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeprune_targets.precision import to_fp16

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.plan import Precision
    from edgeprune_targets.profiles import Target
    from edgeprune_targets.runtimes import Runtime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lowered:
    """A graph for one runtime.

    Attributes:
        model: what the runtime is given; a copy, the canonical graph is left as it was.
        runtime: what it was lowered for.
        precision: what the engine is to compute in. With weak typing the graph itself is fp32 all the same: the
            builder is told by a flag.
        changes: how often each rewrite was done, by its name; rewrites that did nothing are left out.
        fp32_layers: with weak typing and fp16, nodes that the builder must be held to fp32 for, in graph order.
    """

    model: ir.Model
    runtime: Runtime
    precision: Precision
    changes: dict[str, int] = field(default_factory=dict)
    fp32_layers: tuple[str, ...] = ()


def lower(
    model: ir.Model, runtime: Runtime, target: Target, precision: Precision, *, fused_attention: bool = True
) -> Lowered:
    """Write a canonical graph as a runtime takes it. The same graph gives the same bytes.

    Args:
        model: static shapes, constants folded; left as it is.
        runtime: what will build it.
        target: the device, for what its architecture lacks.
        precision: of the engine's matrix products.
        fused_attention: False for a graph in which no runtime fuses attention, with the same numbers.

    Raises:
        TargetError: if the graph cannot be typed in `precision`.
    """
    del fused_attention
    changes: dict[str, int] = {}
    if precision == "fp16":
        model = to_fp16(model, fp32_products=target.fp32_products)
        changes["to-fp16"] = 1
    else:
        model = model.clone()
    return Lowered(model=model, runtime=runtime, precision=precision, changes=changes)
