"""The dense graph at full length, with removed tokens taking no part in any selective scan after their cut.

Every removed token keeps its place. In a scan it gives nothing (`input` 0) and lets decay (`step`):

    none    nothing: 0
    gap     as much as the next kept token, in the order of the scan
    bias    as much as a token of zeros, softplus(bias); where the bias is not found, as `gap`
    exact   its own step in the scans of the block of the cut; behind it, as `bias`

so that no gap is ever counted here. In a causal convolution the tokens that are left are moved together, convolved, and
moved back to their places; in the block of an `exact` cut it sees them all. With `neighbours` and `stand-in`, the token
that stands at a place is put there in front of the convolution. Scans are then as with `none`, or left alone.

Which scans stand behind which cut, and which of them run from the last token to the first, is found here from the dense
graph alone: nothing is taken from recognition or from the axis flow, whose mistakes this is to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.errors import ValidationError
from edgeprune.core.graph import constant_of, downstream, name_of, static_shape, upstream
from edgeprune.core.scans import is_selective_scan
from edgeprune_calibration._compared import Shapes
from edgeprune_calibration._scan_parts import STEP, Kind, numbers, resting_step
from edgeprune_calibration._specs import Array
from edgeprune_calibration._standing import STANDING
from edgeprune_calibration._survivors import Survivors

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.plan import Alignment

_INPUT = 1


@dataclass(frozen=True, slots=True)
class _Fed:
    """A graph input of ours, [B,T,1]."""

    cut: int
    kind: Kind
    flipped: bool

    @property
    def name(self) -> str:
        return f"oracle/scan/{self.kind}/{self.cut}{'/flipped' if self.flipped else ''}"


@dataclass(slots=True)
class ScannedDense:
    """A dense graph under surgery.

    Args:
        model: clone of the dense graph; edited in place.
        shapes: of its values.
        batch: samples in one run.
        tokens: length of the dense sequence, prefix tokens included.
        alignment: of the plan.
    """

    model: ir.Model
    shapes: Shapes
    batch: int
    tokens: int
    alignment: Alignment
    fed: dict[_Fed, ir.Value] = field(default_factory=dict)
    flipped: set[ir.Value] = field(default_factory=set)

    def place(self, cuts: Sequence[ir.Value]) -> int:
        """Silence removed tokens in every scan and convolution after each cut, by its last cut; returns scans."""
        behind: dict[ir.Node, int] = {}
        for i, value in enumerate(cuts):
            behind |= dict.fromkeys(downstream([value]), i)
        inside = {node: i for i, value in enumerate(cuts) for node in self._own_scans(value)}
        nodes = list(self.model.graph)
        self._follow_directions(nodes)
        scans = [node for node in nodes if is_selective_scan(node) and (node in behind or node in inside)]
        for node in scans if self.alignment != "stand-in" else ():
            self._silence(node, behind.get(node), inside.get(node))
        for node in nodes:
            if node in behind and self._mixes_neighbours(node):
                self._move_together(node, behind[node])
        return len(scans)

    def in_front(self, cut: ir.Value) -> ir.Value:
        """The stream that a cut saw: of one inside its block what the block's residual Add adds the block to."""
        behind = downstream([value for node in self._own_scans(cut) for value in node.outputs])
        producer = cut.producer()
        operands = producer.inputs if producer is not None and behind else ()
        found = (v for v in operands if v is not None and self._carries(v) and v.producer() not in behind)
        return next(found, cut)

    def feeds(self, after: Sequence[Survivors]) -> dict[str, Array]:
        """Numbers for the graph inputs that `place` added, from the survivors after each cut."""
        out: dict[str, Array] = {}
        for fed in self.fed:
            if fed.kind == "stands":
                out[fed.name] = self._stands(after[fed.cut], flipped=fed.flipped)[..., None]
                continue
            live = np.zeros((self.batch, self.tokens), dtype=bool)
            np.put_along_axis(live, after[fed.cut].positions, values=True, axis=1)
            out[fed.name] = numbers(live[:, ::-1] if fed.flipped else live, fed.kind)[..., None]
        return out

    def _stands(self, after: Survivors, *, flipped: bool) -> Array:
        """Who stands at each place, [B,T], in the order of a convolution."""
        every = np.tile(np.arange(self.tokens, dtype=np.int64), (self.batch, 1))
        stands = every if after.stands is None else after.stands
        return np.ascontiguousarray(self.tokens - 1 - stands[:, ::-1]) if flipped else stands

    def _own_scans(self, cut: ir.Value) -> list[ir.Node]:
        """Of an `exact` cut the scans of its block: no scan and no attention is between them and the cut."""
        if self.alignment != "exact":
            return []
        above = upstream(cut)
        mixers = [node for node in above if is_selective_scan(node) or self._attends(node)]
        last = [node for node in mixers if not downstream(node.outputs).intersection(mixers)]
        return [node for node in last if is_selective_scan(node)]

    def _attends(self, node: ir.Node) -> bool:
        shape = self.shapes.get(name_of(node.outputs[0]), ())
        return node.op_type in {"Softmax", "Attention"} and shape[-1:] == (self.tokens,)

    def _follow_directions(self, nodes: Sequence[ir.Node]) -> None:
        """Find every value whose tokens run from the last to the first: a Slice turned them, and none turned them back.

        Raises:
            ValidationError: if both directions meet in one node.
        """
        for node in nodes:
            carried = [value for value in node.inputs if value is not None and self._carries(value)]
            turned = {value in self.flipped for value in carried}
            if len(turned) > 1:
                msg = f"{node.op_type} node {name_of(node)} joins tokens of both directions"
                raise ValidationError(msg, hint="flip the backward branch back before it is added")
            if turned and turned != {self._turns(node)}:
                self.flipped.update(value for value in node.outputs if self._carries(value))

    def _turns(self, node: ir.Node) -> bool:
        """Whether a Slice takes the tokens from the end."""
        axes, steps = (
            map(constant_of, node.inputs[3:5]) if node.op_type == "Slice" and len(node.inputs) > 4 else (None, None)
        )
        shape = self.shapes.get(name_of(node.outputs[0]), ())
        if axes is None or steps is None:
            return False
        return any(step < 0 and shape[axis] == self.tokens for axis, step in zip(axes, steps, strict=True))

    def _carries(self, value: ir.Value) -> bool:
        shape = self.shapes.get(name_of(value)) or static_shape(value) or ()
        return constant_of(value) is None and self.tokens in shape

    def _silence(self, node: ir.Node, behind: int | None, inside: int | None) -> None:
        """Let removed tokens give nothing, and decay as the alignment says; of an `exact` cut as they would.

        Raises:
            ValidationError: if the scan runs over another number of tokens.
        """
        shape = self.shapes[name_of(node.outputs[0])]
        if shape[:2] != (self.batch, self.tokens):
            msg = f"scan {name_of(node)} has shape {list(shape)}, expected [{self.batch},{self.tokens},D]"
            raise ValidationError(msg, hint="this scan cannot be checked: it runs over other tokens than the cut")
        flipped = node.outputs[0] in self.flipped
        last = max(cut for cut in (behind, inside) if cut is not None)
        self._replace(node, _INPUT, "Mul", [self._feed(last, "live", flipped=flipped)])
        if behind is None:
            return
        resting = resting_step(node) if self.alignment in {"bias", "exact"} else None
        if self.alignment in {"none", "neighbours"} or resting is not None:
            self._replace(node, STEP, "Mul", [self._feed(behind, "live", flipped=flipped)])
        else:
            self._replace(node, STEP, "GatherND", [self._feed(behind, "next", flipped=flipped)], batch_dims=1)
        if resting is not None:
            decays = self._feed(behind, "gone", flipped=flipped)
            self._replace(node, STEP, "Add", [self._op("Mul", [decays, self._constant(resting)], node, "resting")])

    def _mixes_neighbours(self, node: ir.Node) -> bool:
        """Whether a node is a depthwise convolution over the whole row of tokens.

        Raises:
            ValidationError: if it sees what comes later, so that no order of removed tokens is without effect.
        """
        shape = self.shapes.get(name_of(node.outputs[0]), ())
        weight = constant_of(node.inputs[1]) if node.op_type == "Conv" else None
        if weight is None or len(shape) != 3 or shape[-1] != self.tokens or weight.shape[-1] == 1:
            return False
        if node.inputs[0] is None or self.shapes.get(name_of(node.inputs[0])) != shape:
            return False
        if "pads" not in node.attributes or list(node.attributes["pads"].as_ints())[-1:] != [0]:
            msg = f"the convolution {name_of(node)} sees tokens behind its own"
            raise ValidationError(msg, hint="only causal convolutions can be checked behind a cut")
        return True

    def _move_together(self, node: ir.Node, cut: int) -> None:
        """Convolve the tokens that are left side by side: the others stand behind them all, where none looks."""
        flipped, uses = node.outputs[0] in self.flipped, [(use.node, use.idx) for use in node.outputs[0].uses()]
        value = node.inputs[0]
        assert value is not None
        if self.alignment in STANDING:
            stands = self._feed(cut, "stands", flipped=flipped)
            node.replace_input_with(0, self._moved(value, stands, node, "stands"))
            return
        together, apart = (self._feed(cut, kind, flipped=flipped) for kind in ("together", "apart"))
        node.replace_input_with(0, self._moved(value, together, node, "together"))
        follower = next(reader for reader in self.model.graph if any(reader is user for user, _ in uses))
        back = self._moved(node.outputs[0], apart, follower, f"apart/{name_of(node)}")
        for user, position in uses:
            user.replace_input_with(position, back)

    def _moved(self, value: ir.Value, order: ir.Value, before: ir.Node, name: str) -> ir.Value:
        """[B,D,T] with its tokens in another order."""
        rows = self._op("Transpose", [value], before, f"{name}/rows", perm=[0, 2, 1])
        taken = self._op("GatherND", [rows, order], before, f"{name}/taken", batch_dims=1)
        return self._op("Transpose", [taken], before, f"{name}/columns", perm=[0, 2, 1])

    def _replace(
        self, node: ir.Node, position: int, op_type: str, others: Sequence[ir.Value], **attributes: object
    ) -> None:
        value = node.inputs[position]
        assert value is not None
        name = f"{op_type.lower()}/{position}"
        node.replace_input_with(position, self._op(op_type, [value, *others], node, name, **attributes))

    def _op(
        self, op_type: str, inputs: Sequence[ir.Value], before: ir.Node, name: str, **attributes: object
    ) -> ir.Value:
        import onnx_ir as ir

        node = ir.node(op_type, list(inputs), attributes, name=f"oracle/scan/{name}/{name_of(before)}")  # type: ignore[arg-type]
        node.outputs[0].name = node.name
        self.model.graph.insert_before(before, [node])
        return node.outputs[0]

    def _constant(self, array: Array) -> ir.Value:
        import onnx_ir as ir

        name = f"oracle/scan/constant/{len(self.model.graph.initializers)}"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        self.model.graph.register_initializer(value)
        return value

    def _feed(self, cut: int, kind: Kind, *, flipped: bool) -> ir.Value:
        import onnx_ir as ir

        fed = _Fed(cut, kind, flipped)
        if fed not in self.fed:
            dtype = ir.DataType.FLOAT if kind in {"live", "gone"} else ir.DataType.INT64
            shape = ir.Shape((self.batch, self.tokens, 1))
            self.fed[fed] = ir.Value(name=fed.name, shape=shape, type=ir.TensorType(dtype))
            self.model.graph.inputs.append(self.fed[fed])
        return self.fed[fed]
