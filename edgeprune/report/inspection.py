"""What `inspect` recognised in a model: blocks, refusals, and which strategies apply."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.core.plan import WidthKind
from edgeprune.core.refusals import Refusal
from edgeprune.core.results import ModelFacts

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """An input or output of a graph. `shape`: a size, the name of an open axis, or '?'."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFacts:
    """One recognised block.

    Attributes:
        index: 0-based, in execution order.
        tokens: T, prefix tokens included.
        prefix_tokens: class, distillation and register tokens.
        heads: H; None where the heads were not recognised.
        head_size: Dh; None where the heads were not recognised.
        width: D, of the residual stream.
        mlp_width: F; None where no MLP was recognised.
        attention: spelling of the attention, in a word or two; of a block of scans their operator and directions.
        cut: name of the residual value where tokens can be cut after the attention; None if they cannot.
        macs: of this block, for one run at the static shapes.
        params: elements of the initializers that only this block uses.
        channels: of a selective scan; None where the block has none.
        states: numbers of state a channel of it; None where the block has none.
    """

    index: int
    tokens: int
    prefix_tokens: int
    heads: int | None
    head_size: int | None
    width: int
    mlp_width: int | None
    attention: str
    cut: str | None
    macs: int
    params: int
    channels: int | None = None
    states: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOutFacts:
    """Where tokens leave for outputs of one row a token, as a language model is given them.

    Attributes:
        value: name of what the projector reads.
        block: the last block that it depends on.
        outputs: names of the graph's outputs.
        projector: products with a weight behind it; none where the outputs are hidden states.
    """

    value: str
    block: int
    outputs: tuple[str, ...]
    projector: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyFit:
    """Whether a strategy applies to the model. `refused`: None if it does."""

    name: str
    refused: Refusal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthFacts:
    """A width that can be cut.

    Attributes:
        kind: MLP channels, heads, or head size; or a whole attention or MLP, of size 1.
        block: index of the block.
        number: tells apart several of one kind in a block.
        size: units.
        coupled: initializers that lose elements with them.
        literals: nodes that name their number in a constant.
    """

    kind: WidthKind
    block: int
    number: int
    size: int
    coupled: tuple[str, ...]
    literals: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthCost:
    """What one cut of one width would save and lose, alone.

    Attributes:
        kind: MLP channels, heads, or head size; or a whole attention or MLP, in whose place its mean would stay.
        block: index of the block.
        number: tells apart several of one kind in a block.
        keep: units that would stay.
        of: units that there are.
        macs: share of the model's MACs that it saves.
        loss: share of the variance of the output that the units make, once all others are solved anew; for head sizes
            with what the logits lose. For a sublayer the squared relative error of the model's outputs.
    """

    kind: WidthKind
    block: int
    number: int
    keep: int
    of: int
    macs: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """All that was recognised in one model.

    Attributes:
        schema: version of this format.
        source: the model as the user named it.
        opset: of the default operator domain.
        inputs: of the graph as it stands in the file.
        outputs: of the graph as it stands in the file.
        model: the model in numbers, at the static shapes.
        blocks: in execution order; empty where none was recognised.
        readout: where `--output-tokens` would choose; None where nothing can be chosen.
        widths: what can be cut beside tokens.
        sensitivity: what such cuts would cost; empty where that was not asked for.
        refusals: what was declined, why and where.
        width_refusals: widths that were declined, why and where.
        strategies: every known strategy, and why one does not apply.
        warnings: sentences that a person should read.
    """

    schema: int = SCHEMA
    source: str
    opset: int
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    model: ModelFacts
    blocks: tuple[BlockFacts, ...]
    readout: ReadOutFacts | None = None
    widths: tuple[WidthFacts, ...] = ()
    sensitivity: tuple[WidthCost, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    width_refusals: tuple[Refusal, ...] = ()
    strategies: tuple[StrategyFit, ...] = ()
    warnings: tuple[str, ...] = ()
