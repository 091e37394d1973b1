"""What was recognised, in the words of an inspection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.compiler.structuring.width_levels import fewest_of, levels_of, step_of
from edgeprune.core.costs import node_macs
from edgeprune.core.graph import constant_of, downstream, static_shape
from edgeprune.core.readout import ReadOut, find_readout
from edgeprune.core.recognition import is_residual, token_dominators
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.scans import OPERATOR
from edgeprune.core.widths.find import find_widths
from edgeprune.core.widths.groups import WidthGroup, Widths
from edgeprune.report import BlockFacts, Inspection, ReadOutFacts, StrategyFit, TensorFacts
from edgeprune.report.inspection import WidthFacts
from edgeprune_passes.registry import strategies
from edgeprune_passes.selection import first_refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.compiler.opening.loading import Loaded
    from edgeprune.compiler.structuring.structure import Item
    from edgeprune.core.recognition import Block, Recognition
    from edgeprune_passes.selection import Strategy


def inspection_of(loaded: Loaded) -> Inspection:
    """The inspection of a loaded model."""
    graph, found = loaded.source.model.graph, loaded.found
    widths = find_widths(loaded.dense, found) if found.stream is not None else Widths(())
    items: tuple[Item, ...] = (*widths.groups, *widths.sublayers)
    tight = [item for item in items if len(levels_of(item)) == 1]
    return Inspection(
        source=loaded.name,
        opset=loaded.source.model.opset_imports.get("", 0),
        inputs=tuple(_tensor(value) for value in graph.inputs),
        outputs=tuple(_tensor(value) for value in graph.outputs),
        model=loaded.facts(),
        blocks=_blocks(loaded.dense, found) if found.stream else (),
        readout=_readout(loaded.dense, found),
        widths=tuple(_width(item) for item in items if item not in tight),
        width_refusals=(*widths.refusals, *map(_tight, tight)),
        refusals=(*found.refusals, *found.head_refusals),
        strategies=tuple(
            StrategyFit(name=name, refused=_refused(made(), found)) for name, made in strategies().items()
        ),
        warnings=loaded.warnings,
    )


def _tight(item: Item) -> Refusal:
    """A width that has no smaller count which runs fast: heads of 16, two heads."""
    steps = f"{step_of(item)} at a time and {fewest_of(item)} at the least" if isinstance(item, WidthGroup) else ""
    reason = f"{item.kind} is {item.size}, and what runs fast keeps {steps}"
    return Refusal(RefusalCode.NOT_APPLICABLE, reason, (item.name,))


def _width(group: Item) -> WidthFacts:
    return WidthFacts(
        kind=group.kind,
        block=group.block,
        number=group.number,
        size=group.size,
        coupled=group.coupled,
        literals=group.literals,
    )


def _readout(model: ir.Model, found: Recognition) -> ReadOutFacts | None:
    place = find_readout(model, found) if found.stream is not None else None
    if not isinstance(place, ReadOut):
        return None
    return ReadOutFacts(
        value=str(place.value.name),
        block=place.block,
        outputs=tuple(str(value.name) for value in place.outputs),
        projector=len(place.projector),
    )


def _tensor(value: ir.Value) -> TensorFacts:
    dims = () if value.shape is None else value.shape.dims
    shape = tuple(dim if isinstance(dim, int) else str(dim.value or "?") for dim in dims)
    return TensorFacts(name=str(value.name), dtype=value.dtype.name.lower() if value.dtype else "?", shape=shape)


def _refused(strategy: Strategy, found: Recognition) -> Refusal | None:
    return found.refusals[0] if found.stream is None else first_refusal(strategy, found)


def _blocks(model: ir.Model, found: Recognition) -> tuple[BlockFacts, ...]:
    members = _members(model, found)
    return tuple(_facts(block, found, members[block.index]) for block in found.blocks)


def _members(model: ir.Model, found: Recognition) -> list[list[ir.Node]]:
    """The nodes of each block: from behind the previous block's last residual Add to its own."""
    ends = _ends(model, found)
    stage: dict[ir.Node, int] = {}
    out: list[list[ir.Node]] = [[] for _ in found.blocks]
    flow = found.found.flow
    for node in model.graph:
        carries = any(flow.tokens_on(v) for v in (*node.inputs, *node.outputs) if v is not None)
        before = max([stage[p] for v in node.inputs if v is not None and (p := v.producer()) in stage] or [0])
        stage[node] = before + 1 if node in ends else before
        if carries and before < len(out) and _past_source(node, found):
            out[before].append(node)
    return out


def _past_source(node: ir.Node, found: Recognition) -> bool:
    return not any(value in found.found.seeds for value in node.outputs)


def _ends(model: ir.Model, found: Recognition) -> set[ir.Node]:
    """The last residual Add of each block."""
    stream = found.found
    tree = token_dominators(list(model.graph), stream)
    ends: set[ir.Node] = set()
    for block in found.blocks[1:]:
        chain = [v for v in tree.chain(block.entry) if is_residual(stream.flow, v)]
        node = chain[-1].producer() if chain else None
        if node is not None:
            ends.add(node)
    return ends


def _facts(block: Block, found: Recognition, nodes: Sequence[ir.Node]) -> BlockFacts:
    stream = found.found
    attention = block.attention if block.attentions else None
    scan = block.scans[0] if block.scans else None
    shape = static_shape(block.cut) if block.cut is not None else None
    width = shape[-1] if shape else 0
    known = attention if attention is not None and attention.query is not None else None
    return BlockFacts(
        index=block.index,
        tokens=stream.tokens,
        prefix_tokens=stream.prefix,
        heads=known.heads // stream.batch if known is not None else None,
        head_size=known.head_size if known is not None else None,
        width=width,
        mlp_width=_mlp_width(nodes, block, width),
        attention=" + ".join([*(each.spelling for each in block.attentions[:1]), *_directions(block)]),
        channels=scan.channels if scan is not None else None,
        states=scan.states if scan is not None else None,
        cut=str(block.cut.name) if block.cut is not None else None,
        macs=sum(map(node_macs, nodes)),
        params=sum(_params(node) for node in nodes),
    )


def _directions(block: Block) -> list[str]:
    """'SelectiveScan forward, backward'."""
    words = ["backward" if scan.flipped else "forward" for scan in block.scans]
    return [f"{OPERATOR} {', '.join(words)}"] if words else []


def _mlp_width(nodes: Sequence[ir.Node], block: Block, width: int) -> int | None:
    """Rows of the weight that brings the MLP back to the stream's width."""
    behind = downstream([block.cut]) if block.cut is not None else set()
    inner = [_weight(node) for node in nodes if node in behind]
    rows = [shape[0] for shape in inner if shape is not None and shape[1] == width]
    return max(rows) if rows else None


def _weight(node: ir.Node) -> tuple[int, int] | None:
    """[in, out] of a linear node's weight."""
    if node.op_type not in {"MatMul", "Gemm"}:
        return None
    array = constant_of(node.inputs[1])
    if array is None or array.ndim != 2:
        return None
    swapped = node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int()
    return (array.shape[1], array.shape[0]) if swapped else (array.shape[0], array.shape[1])


def _params(node: ir.Node) -> int:
    constants = (constant_of(value) for value in node.inputs)
    return sum(array.size for array in constants if array is not None and array.dtype.kind == "f")
