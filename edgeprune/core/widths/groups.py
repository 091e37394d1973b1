"""Width groups: the units of an MLP or an attention, every constant that has them, and every literal that counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import name_of, static_shape
from edgeprune.core.widths.call import Edit, WidthCall
from edgeprune.core.widths.units import Unions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.linear import Linear
    from edgeprune.core.plan import WidthKind
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.widths.flow import WidthFlow
    from edgeprune.core.widths.units import Kept, Units


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Where the coordinates of queries, keys or values are made.

    Attributes:
        linear: the projection.
        columns: [H, Dh], column of the projection by head and coordinate.
    """

    linear: Linear
    columns: Units


@dataclass(frozen=True, slots=True, eq=False)
class HeadLayout:
    """Where the heads of one attention stand.

    Attributes:
        query: made by.
        key: made by.
        value: made by.
        rows: [H, Dv], row of the output projection by head and coordinate of the values.
        product: of queries and keys.
        shared: [H], which keys and values each head of queries reads; several read the same where they are grouped.
    """

    query: Part
    key: Part
    value: Part
    rows: Units
    product: ir.Node
    shared: Units


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WidthGroup:
    """Units that are made by some projections and contracted by one weight.

    Attributes:
        kind: MLP channels, whole heads, coordinates within every head, or channels between the projections of scans.
        block: 0-based.
        number: tells apart several of one kind in a block.
        size: how many units there are.
        producers: projections that make them.
        consumer: the weight that contracts them.
        columns: unit of every column of each producer.
        rows: unit of every row of the consumer.
        edits: constants that follow: weights, biases, tables, and literals that name the width.
        values: units of every value that has some.
        layout: of the heads; None for an MLP.
        beside: other weights that contract the units, whose rows go with them and stay as they are otherwise.
    """

    kind: WidthKind
    block: int
    number: int = 0
    size: int
    producers: tuple[Linear, ...]
    consumer: Linear
    columns: tuple[Units, ...]
    rows: Units
    edits: tuple[Edit, ...]
    values: dict[ir.Value, Units]
    layout: HeadLayout | None = None
    beside: tuple[Linear, ...] = ()

    @property
    def name(self) -> str:
        """`mlp.3`: kind and block; with a number where a block has several."""
        return group_name(self.kind, self.block, self.number)

    @property
    def coupled(self) -> tuple[str, ...]:
        """Names of the initializers that lose elements."""
        return tuple(dict.fromkeys(name_of(_input(edit)) for edit in self.edits if edit.axes))

    @property
    def literals(self) -> tuple[str, ...]:
        """Names of the nodes that name the width in a constant."""
        return tuple(dict.fromkeys(name_of(edit.node) for edit in self.edits if not edit.axes))

    def rows_of(self, linear: Linear) -> Units:
        """Unit of every row of a weight that contracts the units."""
        return np.broadcast_to(self.values[linear.data].reshape(-1), (linear.weight.shape[0],))

    def mask(self, kept: Sequence[int] | Units) -> Kept:
        """Which units stay."""
        mask = np.zeros(self.size, bool)
        mask[np.asarray(kept, int)] = True
        return mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sublayer:
    """An attention or an MLP as a whole, which a constant row can stand for.

    Attributes:
        kind: which of the two.
        block: 0-based.
        number: tells apart several MLPs in a block.
        join: the residual Add that takes it to the stream.
        index: which input of `join` it makes; the other one is the stream.
        nodes: that are computed for it alone, in the order of the graph.
    """

    kind: WidthKind
    block: int
    number: int = 0
    join: ir.Node
    index: int
    nodes: tuple[ir.Node, ...]

    @property
    def size(self) -> int:
        """It is there, or it is not."""
        return 1

    @property
    def name(self) -> str:
        """`mlp-sublayer.3`."""
        return group_name(self.kind, self.block, self.number)

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of the constant that stands for it: the features of the stream."""
        return (static_shape(_input_of(self.join, self.index)) or ())[-1:]

    @property
    def coupled(self) -> tuple[str, ...]:
        """Names of the weights that go with it."""
        inside = set(self.nodes)
        read = [v for node in self.nodes for v in node.inputs if v is not None and v.const_value is not None]
        alone = [v for v in read if v.dtype is not None and v.dtype.is_floating_point()]
        return tuple(dict.fromkeys(name_of(v) for v in alone if {use.node for use in v.uses()} <= inside))

    @property
    def literals(self) -> tuple[str, ...]:
        """No literal names its size."""
        return ()


@dataclass(frozen=True, slots=True)
class Widths:
    """The width groups of a model, its sublayers, and what was declined."""

    groups: tuple[WidthGroup, ...]
    refusals: tuple[Refusal, ...] = ()
    sublayers: tuple[Sublayer, ...] = ()
    declined: tuple[tuple[WidthKind, Refusal], ...] = ()

    def of(self, kind: WidthKind) -> tuple[WidthGroup, ...]:
        """The groups of one kind."""
        return tuple(group for group in self.groups if group.kind == kind)

    def why_no(self, kind: WidthKind) -> str:
        """Why a model has no width of a kind, as the end of a sentence; of another where none looked like it."""
        own = [refusal for each, refusal in self.declined if each == kind]
        return "".join(f": {refusal}" for refusal in (*own, *self.refusals)[:1])

    def named(self, name: str) -> WidthGroup | None:
        """The group of a name."""
        return next((group for group in self.groups if group.name == name), None)

    def sublayer(self, name: str) -> Sublayer | None:
        """The sublayer of a name."""
        return next((sublayer for sublayer in self.sublayers if sublayer.name == name), None)


def group_name(kind: str, block: int, number: int = 0) -> str:
    """How plans and reports name a group."""
    return f"{kind}.{block}" + (f".{number}" if number else "")


def _input(edit: Edit) -> ir.Value:
    return _input_of(edit.node, edit.index)


def _input_of(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def make_group(  # noqa: PLR0913, PLR0917 - a group is all of this
    kind: WidthKind,
    block: int,
    number: int,
    producers: Sequence[Linear],
    consumer: Linear,
    flow: WidthFlow,
    layout: HeadLayout | None = None,
    beside: Sequence[Linear] = (),
) -> WidthGroup:
    """The group of a flow that ended in one consumer."""
    columns = tuple(flow.units[linear.node.outputs[0]].reshape(-1) for linear in producers)
    own = [edit for linear, units in zip(producers, columns, strict=True) for edit in _producer_edits(linear, units)]
    rows = np.broadcast_to(flow.units[consumer.data].reshape(-1), (consumer.weight.shape[0],))
    return WidthGroup(
        kind=kind,
        block=block,
        number=number,
        size=1 + int(max(units.max() for units in columns)),
        producers=tuple(producers),
        consumer=consumer,
        columns=columns,
        rows=rows,
        edits=(*own, *flow.edits),
        values=flow.units,
        layout=layout,
        beside=tuple(beside),
    )


def _producer_edits(linear: Linear, units: Units) -> list[Edit]:
    """The projection's columns, and the bias inside a Gemm; that of an Add behind is met by the flow."""
    call = WidthCall(linear.node, (), Unions(0))
    call.couple(1, units.reshape((-1, 1) if linear.transposed else (1, -1)))
    if linear.adder is None and linear.bias_index is not None:
        rank = len(call.shape(linear.bias_index))
        call.couple(linear.bias_index, units.reshape((1,) * (rank - 1) + (-1,)))
    return call.edits
