"""An inspection on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from edgeprune.core.refusals import Refusal
from edgeprune.report.inspection import (
    BlockFacts,
    Inspection,
    ReadOutFacts,
    StrategyFit,
    TensorFacts,
    WidthCost,
    WidthFacts,
)
from edgeprune.report.terminal import render_notes, table
from edgeprune.report.words import count, small


def render_inspection(inspection: Inspection) -> RenderableType:
    """Lay out what was recognised, what was refused, and which strategies apply."""
    return Group(
        Text(_summary(inspection)),
        _tensors(inspection.inputs, inspection.outputs),
        *([_blocks(inspection.blocks)] if inspection.blocks else []),
        *([Text(_readout(inspection.readout))] if inspection.readout is not None else []),
        *([_strategies(inspection.strategies)] if inspection.strategies else []),
        *([Text(_widths(inspection.widths))] if inspection.widths else []),
        *([_sensitivity(inspection.sensitivity)] if inspection.sensitivity else []),
        *render_notes((*inspection.refusals, *_once(inspection.width_refusals)), inspection.warnings),
    )


def _summary(inspection: Inspection) -> str:
    facts = inspection.model
    size = f"opset {inspection.opset}, {count(facts.macs)} MACs, {count(facts.params)} parameters"
    if not inspection.blocks:
        return f"{inspection.source}: {size}; no transformer block was recognised"
    tokens = f"{facts.tokens} tokens of which {facts.prefix_tokens} prefix"
    return f"{inspection.source}: {size}; {facts.blocks} blocks, {tokens}"


def _readout(place: ReadOutFacts) -> str:
    """'tokens leave behind block 22 at `add_92`, through 2 products, by `image_features`: see --output-tokens'."""
    through = {0: "", 1: ", through 1 product"}.get(place.projector, f", through {place.projector} products")
    outputs = ", ".join(f"`{name}`" for name in place.outputs)
    return f"tokens leave behind block {place.block} at `{place.value}`{through}, by {outputs}: see --output-tokens"


def _widths(widths: Sequence[WidthFacts]) -> str:
    """'widths that can be cut: mlp in 12 blocks (768), heads in 12 blocks (3)'."""
    kinds = {facts.kind: sorted({each.size for each in widths if each.kind == facts.kind}) for facts in widths}
    blocks = {kind: len({each.block for each in widths if each.kind == kind}) for kind in kinds}
    shown = {kind: "" if sizes == [1] else f" ({', '.join(map(str, sizes))})" for kind, sizes in kinds.items()}
    parts = [f"{kind} in {blocks[kind]} blocks{shown[kind]}" for kind in kinds]
    return f"widths that can be cut: {', '.join(parts)}"


def _once(refusals: Sequence[Refusal]) -> list[Refusal]:
    """The first refusal of each reason: what one block refuses, most do."""
    return list({refusal.reason: refusal for refusal in reversed(refusals)}.values())[::-1]


def _sensitivity(costs: Sequence[WidthCost]) -> RenderableType:
    title = "What one cut alone would save and lose; of a sublayer the outputs' squared error, else its own output's"
    made = table(title, "width", "block", "kept", "MACs saved", "loss")
    for cost in costs:
        made.add_row(cost.kind, str(cost.block), f"{cost.keep} of {cost.of}", f"{cost.macs:.2%}", small(cost.loss))
    return made


def _tensors(inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> RenderableType:
    made = table("Interface", "", "name", "type", "shape", left=4)
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            made.add_row(kind, tensor.name, tensor.dtype, " x ".join(map(str, tensor.shape)))
    return made


def _blocks(blocks: Sequence[BlockFacts]) -> RenderableType:
    scanned = any(block.channels is not None for block in blocks)
    sized = ("channels", "states") if scanned else ()
    columns = ("attention", "cut point", "block", "T", "prefix", "heads", "Dh", "D", "MLP", *sized)
    made = table("Blocks", *columns, "MACs", "parameters", left=2)
    for block in blocks:
        sizes = (
            block.index,
            block.tokens,
            block.prefix_tokens,
            block.heads,
            block.head_size,
            block.width,
            block.mlp_width,
            *((block.channels, block.states) if scanned else ()),
        )
        shown = ("-" if size is None else str(size) for size in sizes)
        made.add_row(block.attention, block.cut or "-", *shown, count(block.macs), count(block.params))
    return made


def _strategies(strategies: Sequence[StrategyFit]) -> RenderableType:
    made = table("Strategies", "strategy", "applies", left=2)
    for fit in strategies:
        made.add_row(fit.name, "yes" if fit.refused is None else f"no, {fit.refused}")
    return made
