"""The table of widths: operator -> rule. An operator that is not here refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgeprune.core.refusals import RefusalCode
from edgeprune.core.scans import SELECTIVE_SCAN
from edgeprune.core.widths import rules_layout as layout
from edgeprune.core.widths import rules_scan as scan
from edgeprune.core.widths.units import aligned, squashed, varies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgeprune.core.widths.call import WidthCall
    from edgeprune.core.widths.units import Units

    Rule: TypeAlias = Callable[[WidthCall], list[Units | None]]

_UNARY = """
    Abs Cast Ceil Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish
    Neg Not Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
""".split()
_ELEMENTWISE = """
    Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor
""".split()
_REDUCE = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()


def unary(call: WidthCall) -> list[Units | None]:
    """Each number by itself."""
    return [call.data()] * len(call.node.outputs)


def elementwise(call: WidthCall) -> list[Units | None]:
    """Operands are aligned: units that meet go together."""
    present = [i for i in range(len(call.node.inputs)) if call.has(i)]
    return [call.meet({i: (call.units[i], call.shape(i)) for i in present}, len(call.out_shape()))]


def softmax(call: WidthCall) -> list[Units | None]:
    """Over other axes than that of the units."""
    units = call.data()
    axis = call.attr("axis", -1) % units.ndim
    _not_over(call, units, range(axis, units.ndim))  # old opsets normalise over all axes from this one on
    return [units]


def normalise(call: WidthCall) -> list[Units | None]:
    """Over the last axes, with scale and bias of their shape; not over the units."""
    units = call.data()
    axis = call.attr("axis", -1) % units.ndim
    _not_over(call, units, range(axis, units.ndim))
    return [units, *[None] * (len(call.node.outputs) - 1)]


def reduce(call: WidthCall) -> list[Units | None]:
    """Over other axes than that of the units."""
    units = call.data()
    named = call.axes_argument(1)
    axes = [axis % units.ndim for axis in (named if named else range(units.ndim))]
    _not_over(call, units, axes)
    if call.attr("keepdims", 1):
        return [units]
    return [units.reshape([size for axis, size in enumerate(units.shape) if axis not in axes])]


def _not_over(call: WidthCall, units: Units, axes: Iterable[int]) -> None:
    if any(varies(units, axis) for axis in axes):
        call.decline("a statistic over the width changes with it", RefusalCode.WIDTH_NORMALISED)


def matmul(call: WidthCall) -> list[Units | None]:
    """A weight contracts the units, or two operands are multiplied head by head."""
    a, b = call.units[:2]
    rank = len(call.out_shape())
    if a is None or b is None:
        return [_with_other(call, 0 if a is not None else 1, rank)]
    a, b = aligned(a, max(a.ndim, 2)), aligned(b, max(b.ndim, 2))
    if varies(a, -1) or varies(b, -2):
        along_a, along_b = _contracted(call, a, -1), _contracted(call, b, -2)
        call.unions.join(along_a, along_b)
        return [None]
    left, right = a.take([0], axis=-1), b.take([0], axis=-2)
    if squashed(left).size > 1 and squashed(right).size > 1:
        call.unions.join(aligned(left, rank), aligned(right, rank))
    return [np.array(np.broadcast_arrays(aligned(left, rank), aligned(right, rank))[int(left.size == 1)])]


def _contracted(call: WidthCall, units: Units, axis: int) -> Units:
    """The units along the contracted axis, which must be the only one they are on."""
    along = np.moveaxis(units, axis, -1)
    if squashed(along).size != squashed(along).shape[-1] and not call.tracing:
        call.decline("a product contracts the width of each head by itself")
    return np.asarray(along.reshape(-1, along.shape[-1])[0])


def _with_other(call: WidthCall, index: int, rank: int) -> Units | None:
    """A product in which one operand has units and the other has none."""
    units, weight = call.data(index), call.constant(1 - index)
    contracted = -1 if index == 0 else -2
    if varies(units, contracted):
        if weight is None or weight.ndim != 2 or index == 1:
            call.decline("the width is contracted with something that is no plain weight")
        if squashed(units).size != units.shape[-1]:
            call.decline("a weight contracts more than the width")
        call.consumes = True
        call.couple(1, units.reshape(-1, 1))
        return None
    outer = aligned(units.take([0], axis=contracted), rank)
    lead = call.shape(1 - index)[:-2]
    if not call.tracing and any(d > 1 and varies(outer, rank - 2 - len(lead) + i) for i, d in enumerate(lead)):
        call.decline("each head has a weight of its own, or meets a value that is computed elsewhere")
    return outer


def gemm(call: WidthCall) -> list[Units | None]:
    """A weight contracts the units of the first operand."""
    units = call.units[0]
    if units is None or call.constant(1) is None or call.attr("transA", 0) or varies(units, 0):
        call.decline("the width is contracted with something that is no plain weight")
    call.consumes = True
    call.couple(1, units.reshape((1, -1) if call.attr("transB", 0) else (-1, 1)))
    return [None]


RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **dict.fromkeys((f"Reduce{kind}" for kind in _REDUCE), reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "LpNormalization"), normalise),
    "MatMul": matmul,
    "Gemm": gemm,
    "Conv": scan.convolution,
    SELECTIVE_SCAN: scan.selective_scan,
    "Transpose": layout.transpose,
    "Reshape": layout.reshape,
    "Flatten": layout.flatten,
    "Squeeze": layout.squeeze,
    "Unsqueeze": layout.unsqueeze,
    "Slice": layout.slice_,
    "Split": layout.split,
    "Gather": layout.gather,
    "Concat": layout.concat,
    "Expand": layout.expand,
    "Tile": layout.tile,
}
