"""From the canonical graph to the one that a runtime is given: one rewrite a file, in one order for all runtimes.

All runtimes get opset 17 and IR 8 where the graph can be said in them, so that one file serves TensorRT 10.3 to 11 and
TensorRT-RTX. Operators younger than opset 17 are written by their definition, as importers do. Attention of opset 23 is
left out on purpose: it has no fp32 form, hides the probabilities, and the plain products are fused just as well.

Strong typing (10.3 and later, TensorRT-RTX): the graph is fp16 with visible Casts, and the engine computes in just
these types. Weak typing (8.5, 8.6): the graph stays fp32 and the builder gets a flag. It would take Casts for hints
only; what must not run in fp16, such as a LayerNormalization that has been spelled out and overflows, is named in
`Lowered.fp32_layers`, which trtexec takes as `--precisionConstraints=obey --layerPrecisions=NAME:fp32,...`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeprune_targets.fp32_rules import HELD, fp32_nodes
from edgeprune_targets.lowering.einsum import spell_out_einsum
from edgeprune_targets.lowering.gelu import decompose_gelu
from edgeprune_targets.lowering.group_norm import decompose_group_norm
from edgeprune_targets.lowering.key_transpose import straighten_keys
from edgeprune_targets.lowering.layer_norm import decompose_layer_norm
from edgeprune_targets.lowering.opset import to_common_opset
from edgeprune_targets.lowering.query_scale import scale_queries
from edgeprune_targets.lowering.rms_norm import decompose_rms_norm
from edgeprune_targets.lowering.scans import lower_scans
from edgeprune_targets.lowering.scatter import decompose_scatter
from edgeprune_targets.lowering.swish import decompose_swish
from edgeprune_targets.lowering.topk_floats import sort_as_floats
from edgeprune_targets.lowering.unfuse import unfuse_attention
from edgeprune_targets.precision import name_nodes, to_fp16

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.plan import Precision, ScanForm
    from edgeprune_targets.lowering.scans import Form
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


_LIST_SIGNS = str.maketrans(",:*\n", "____")
_REWRITES: dict[str, Callable[[ir.Model], int]] = {
    "rms-norm": decompose_rms_norm,
    "group-norm": decompose_group_norm,
    "gelu": decompose_gelu,
    "swish": decompose_swish,
    "scatter": decompose_scatter,
    "einsum": spell_out_einsum,
    "query-scale": scale_queries,
}


def lower(
    model: ir.Model,
    runtime: Runtime,
    target: Target,
    precision: Precision,
    *,
    fused_attention: bool = True,
    scan: ScanForm = "auto",
) -> Lowered:
    """Write a canonical graph as a runtime takes it. The same graph gives the same bytes.

    Args:
        model: static shapes, constants folded; left as it is.
        runtime: what will build it.
        target: the device, for what its architecture lacks.
        precision: of the engine's matrix products.
        fused_attention: False for a graph in which no runtime fuses attention, with the same numbers.
        scan: form of selective scans; in chunks unless a loop is asked for, which TensorRT runs one token at a time.

    Raises:
        TargetError: if the graph cannot be typed in `precision`.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    copy = model.clone()
    name_nodes(copy)
    form: Form = "loop" if scan == "loop" else "chunked"
    rewrites: dict[str, Callable[[ir.Model], int]] = {f"scan-{form}": lambda graph: lower_scans(graph, form)}
    rewrites |= _REWRITES
    if not runtime.layer_norm:
        rewrites["layer-norm"] = decompose_layer_norm
    if runtime.old_matcher:
        rewrites["key-transpose"] = straighten_keys
    if not runtime.int64:
        rewrites["topk-floats"] = sort_as_floats
    if not fused_attention:
        rewrites["unfused-attention"] = unfuse_attention
    rewrites["opset"] = to_common_opset
    changes = {name: rewrite(copy) for name, rewrite in rewrites.items()}
    RemoveUnusedNodesPass()(copy)  # constants that the rewrites left behind
    held = runtime.typing == "weak" and precision == "fp16"
    if held:
        _rename_for_lists(copy)
    name_nodes(copy)
    high = _fp32_layers(copy) if held else ()
    if runtime.typing == "strong" and precision == "fp16":
        turing_rtx = runtime.family == "tensorrt-rtx" and not target.fp32_products
        copy = to_fp16(copy, fp32_products=not turing_rtx)
    done = {name: count for name, count in changes.items() if count}
    return Lowered(model=copy, runtime=runtime, precision=precision, changes=done, fp32_layers=high)


def _rename_for_lists(model: ir.Model) -> None:
    """Leave no name that would break `NAME:fp32,NAME:fp32`, nor thousands of long ones: all are one argument."""
    for number, node in enumerate(model.graph):
        if HELD in node.meta:
            node.name = f"scan.{number}"
        elif node.name:
            node.name = node.name.translate(_LIST_SIGNS)


def _fp32_layers(model: ir.Model) -> tuple[str, ...]:
    """Names of the nodes that compute floats in fp32 whatever the engine's precision."""
    kept = fp32_nodes(model)
    floats = (node for node in model.graph if node in kept and _makes_floats(node))
    return tuple(node.name for node in floats if node.name)


def _makes_floats(node: ir.Node) -> bool:
    return any(value.dtype is not None and value.dtype.is_floating_point() for value in node.outputs)
