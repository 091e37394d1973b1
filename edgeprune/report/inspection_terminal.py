"""An inspection on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from edgeprune.report.inspection import BlockFacts, Inspection, ReadOutFacts, StrategyFit, TensorFacts
from edgeprune.report.terminal import render_notes, table
from edgeprune.report.words import count


def render_inspection(inspection: Inspection) -> RenderableType:
    """Lay out what was recognised, what was refused, and which strategies apply."""
    return Group(
        Text(_summary(inspection)),
        _tensors(inspection.inputs, inspection.outputs),
        *([_blocks(inspection.blocks)] if inspection.blocks else []),
        *([Text(_readout(inspection.readout))] if inspection.readout is not None else []),
        *([_strategies(inspection.strategies)] if inspection.strategies else []),
        *render_notes(inspection.refusals, inspection.warnings),
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


def _tensors(inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> RenderableType:
    made = table("Interface", "", "name", "type", "shape", left=4)
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            made.add_row(kind, tensor.name, tensor.dtype, " x ".join(map(str, tensor.shape)))
    return made


def _blocks(blocks: Sequence[BlockFacts]) -> RenderableType:
    columns = ("attention", "cut point", "block", "T", "prefix", "heads", "Dh", "D", "MLP", "MACs", "parameters")
    made = table("Blocks", *columns, left=2)
    for block in blocks:
        sizes = (
            block.index,
            block.tokens,
            block.prefix_tokens,
            block.heads,
            block.head_size,
            block.width,
            block.mlp_width,
        )
        shown = ("-" if size is None else str(size) for size in sizes)
        made.add_row(block.attention, block.cut or "-", *shown, count(block.macs), count(block.params))
    return made


def _strategies(strategies: Sequence[StrategyFit]) -> RenderableType:
    made = table("Strategies", "strategy", "applies", left=2)
    for fit in strategies:
        made.add_row(fit.name, "yes" if fit.refused is None else f"no, {fit.refused}")
    return made
