"""The dense graph at full length, with removed tokens masked out of every attention after their cut.

Masks are placed by what this file sees itself: a Softmax (or Attention operator) downstream of the cut whose last axis
is as long as the token sequence. Nothing is taken from recognition or from the axis flow, whose mistakes this is to
find.

Removed columns get -inf, not a large number: rows that a model masks itself at the lowest float would swallow that.
Where probabilities meet the values, removed columns are multiplied by zero as well: with a bias after the softmax
(talking heads) they are not zero by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.errors import ValidationError
from edgeprune.core.graph import consumers, downstream, name_of
from edgeprune_calibration._specs import Array
from edgeprune_calibration._survivors import Survivors, column_bias

if TYPE_CHECKING:
    import onnx_ir as ir

Shapes = Mapping[str, tuple[int, ...]]

EXTRA = 8  # tokens that a head may put in front of the stream, or slice off it, before it attends
_CONTRACTIONS = {"MatMul", "ReduceSum"}
_THROUGH = 16  # nodes between a softmax and its values: transposes, a NaN guard, a mix of heads


@dataclass(frozen=True, slots=True)
class _Fed:
    """A graph input of ours: a row of numbers per sample, along one axis of an operand."""

    cut: int
    shape: tuple[int, ...]
    axis: int
    kind: str

    @property
    def name(self) -> str:
        return f"oracle/{self.kind}/{self.cut}/{self.axis}/{'x'.join(map(str, self.shape))}"


@dataclass(slots=True)
class MaskedDense:
    """A dense graph under surgery.

    Args:
        model: clone of the dense graph; edited in place.
        shapes: of its values.
        batch: samples in one run.
        tokens: length of the dense sequence, prefix tokens included.
        leaving: a cut's value that is itself a graph output, which is to give the merged stream; empty for none.
    """

    model: ir.Model
    shapes: Shapes
    batch: int
    tokens: int
    leaving: str = ""
    fed: dict[_Fed, ir.Value] = field(default_factory=dict)
    mixes: dict[int, str] = field(default_factory=dict)

    def place(self, cuts: Sequence[ir.Value], merges: Sequence[bool]) -> int:
        """Mask every attention after each cut, by its last cut, and merge at those cuts that do; returns attentions."""
        last: dict[ir.Node, int] = {}
        for i, value in enumerate(cuts):
            last |= dict.fromkeys(downstream([value]), i)
        sites = [(node, cut) for node in self.model.graph if (cut := last.get(node)) is not None]
        placed = sum(self._mask(node, cut) for node, cut in sites)
        for i, (value, merging) in enumerate(zip(cuts, merges, strict=True)):
            if merging:
                self._merge(i, value)
        return placed

    def feeds(self, after: Sequence[Survivors]) -> dict[str, Array]:
        """Numbers for the graph inputs that `place` added, from the survivors after each cut."""
        out: dict[str, Array] = {}
        for fed in self.fed:
            row = _stretch(column_bias(after[fed.cut], self.tokens), fed.shape[fed.axis])
            if fed.kind == "live":
                row = np.isfinite(row).astype(np.float32)
            row = np.repeat(row, fed.shape[0] // self.batch, axis=0)
            aligned = row.reshape(fed.shape[0], *(-1 if i == fed.axis else 1 for i in range(1, len(fed.shape))))
            out[fed.name] = np.ascontiguousarray(np.broadcast_to(aligned, fed.shape))
        for cut, name in self.mixes.items():
            mix = after[cut].mix
            if mix is not None:
                out[name] = mix
        return out

    def _mask(self, node: ir.Node, cut: int) -> bool:
        if node.op_type == "Attention":
            return self._mask_attention(node, cut)
        if node.op_type != "Softmax" or node.inputs[0] is None:
            return False
        shape = self.shapes[name_of(node.inputs[0])]
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        if axis % len(shape) != len(shape) - 1 or abs(shape[-1] - self.tokens) > EXTRA:
            return False
        bias = self._feed(cut, shape, len(shape) - 1, "bias", whole=False)
        self._before(node, 0, "Add", bias)
        for reader, position, operand in self._readers(node.outputs[0], shape[-1]):
            axis = len(operand) - 1 - position  # columns are last on the left of a MatMul, second to last on its right
            self._before(reader, position, "Mul", self._feed(cut, operand, axis, "live", whole=False))
        return True

    def _readers(self, probs: ir.Value, columns: int) -> Iterator[tuple[ir.Node, int, tuple[int, ...]]]:
        """Where probabilities meet the values, or are summed to be normalised again: (node, operand, its shape)."""
        front: list[ir.Value] = [probs]
        seen: set[ir.Node] = set()
        while front and len(seen) < _THROUGH:
            value = front.pop(0)
            for node in consumers(value):
                if node in seen:
                    continue
                seen.add(node)
                position = 0 if node.inputs[0] is value else 1
                shape = self.shapes.get(name_of(value), ())
                contracted = len(shape) - 1 - position
                if node.op_type in _CONTRACTIONS and contracted > 0 and shape[contracted] == columns:
                    yield node, position, shape
                    continue
                front.extend(node.outputs)

    def _mask_attention(self, node: ir.Node, cut: int) -> bool:
        import onnx_ir as ir

        query, key = (self.shapes[name_of(value)] for value in node.inputs[:2] if value is not None)
        rows, columns = query[-2], key[-2]
        if abs(columns - self.tokens) > EXTRA:
            return False
        bias = self._feed(cut, (self.batch, 1, rows, columns), 3, "bias", whole=True)
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        if mask is None:
            node.resize_inputs(max(4, len(node.inputs)))
            node.replace_input_with(3, bias)
        elif mask.dtype == ir.DataType.BOOL:
            lowest = ir.tensor(np.array(-np.inf, dtype=np.float32), name=f"oracle/lowest/{name_of(node)}")
            value = ir.Value(name=lowest.name, const_value=lowest)
            self.model.graph.register_initializer(value)
            chosen = ir.node("Where", [mask, bias, value], name=f"oracle/where/{name_of(node)}")
            self.model.graph.insert_before(node, [chosen])
            node.replace_input_with(3, chosen.outputs[0])
        else:
            self._before(node, 3, "Add", bias)
        return True

    def _merge(self, cut: int, value: ir.Value) -> None:
        import onnx_ir as ir

        shape = (self.batch, self.tokens, self.tokens)
        mix = ir.Value(name=f"oracle/mix/{cut}", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        self.model.graph.inputs.append(mix)
        self.mixes[cut] = f"oracle/mix/{cut}"
        uses = [(use.node, use.idx) for use in value.uses()]
        stream, tokens_first = self.shapes[name_of(value)], [1, 0, 2]
        moved = stream[1:2] != (self.tokens,) and len(stream) == 3
        nodes = [ir.node("Transpose", [value], {"perm": tokens_first}, name=f"oracle/in/{cut}")] if moved else []
        nodes.append(ir.node("MatMul", [mix, nodes[-1].outputs[0] if nodes else value], name=f"oracle/merge/{cut}"))
        if moved:
            nodes.append(ir.node("Transpose", nodes[-1].outputs, {"perm": tokens_first}, name=f"oracle/out/{cut}"))
        producer = value.producer()
        if producer is None:
            msg = f"cut {cut} stands at `{value.name}`, which no node of the dense graph computes"
            raise ValidationError(msg, hint="cut after a block, not at a graph input")
        self.model.graph.insert_after(producer, nodes)
        for node, position in uses:
            node.replace_input_with(position, nodes[-1].outputs[0])
        if value.name == self.leaving:
            self._leave(value, nodes[-1].outputs[0])

    def _leave(self, value: ir.Value, merged: ir.Value) -> None:
        """Let a graph output be the merged stream, by the old name."""
        for i, output in enumerate(self.model.graph.outputs):
            if output is value:
                self.model.graph.outputs[i] = merged
        value.name, merged.name = f"oracle/whole/{value.name}", value.name
        merged.type = value.type

    def _feed(self, cut: int, shape: tuple[int, ...], axis: int, kind: str, *, whole: bool) -> ir.Value:
        import onnx_ir as ir

        if shape[0] % self.batch:
            msg = f"attention has shape {list(shape)}, expected a first axis that batch {self.batch} divides"
            raise ValidationError(msg, hint="this graph cannot be checked at this batch; check it at batch 1")
        if not whole:
            shape = tuple(size if i in (0, axis) else 1 for i, size in enumerate(shape))
        fed = _Fed(cut, shape, axis, kind)
        if fed not in self.fed:
            value = ir.Value(name=fed.name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
            self.model.graph.inputs.append(value)
            self.fed[fed] = value
        return self.fed[fed]

    def _before(self, node: ir.Node, position: int, op_type: str, operand: ir.Value) -> None:
        import onnx_ir as ir

        name = f"oracle/{op_type.lower()}/{name_of(node)}/{position}"
        inserted = ir.node(op_type, [node.inputs[position], operand], name=name)
        inserted.outputs[0].name = name
        self.model.graph.insert_before(node, [inserted])
        node.replace_input_with(position, inserted.outputs[0])


def _stretch(row: Array, columns: int) -> Array:
    """Fit [B,T] to an attention that has more tokens in front of the stream, or lacks some of its first."""
    extra = columns - row.shape[1]
    if extra <= 0:
        return row[:, -extra:]
    return np.concatenate([np.zeros((len(row), extra), dtype=row.dtype), row], axis=1)
