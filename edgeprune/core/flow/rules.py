"""The table: operator -> rule. An operator that is not here refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from edgeprune.core.flow import rules_layout as layout
from edgeprune.core.flow import rules_math as math
from edgeprune.core.flow import rules_parts as parts
from edgeprune.core.flow import rules_scan as scans
from edgeprune.core.scans import SELECTIVE_SCAN

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeprune.core.flow.call import Call
    from edgeprune.core.flow.labels import Label

    Rule: TypeAlias = Callable[[Call], list[Label]]

# Stands where tokens come back; all cuts end there. Lowered to plain operators after the last cut.
RESTORE = "edgeprune::Restore"

_UNARY = """
    Abs Acos Asin Atan BitwiseNot Cast Ceil Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf
    IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Swish Tan Tanh
    ThresholdedRelu
""".split()
_ELEMENTWISE = """
    Add And BitwiseAnd BitwiseOr Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub
    Sum Where Xor
""".split()
_REDUCE = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, math.unary),
    **dict.fromkeys(_ELEMENTWISE, math.elementwise),
    **dict.fromkeys((f"Reduce{kind}" for kind in _REDUCE), math.reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax"), math.softmax),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), math.normalise_last),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), math.normalise_spatial),
    **dict.fromkeys(("Conv", "AveragePool", "MaxPool", "LpPool", "ConvTranspose"), math.convolution),
    **dict.fromkeys(("Resize", "Upsample", "Pad", "GlobalAveragePool", "GlobalMaxPool"), math.resize_grid),
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK"), math.arg_reduce),
    **dict.fromkeys(("Scan", "Loop", "CumSum", "LSTM", "GRU", "RNN"), math.scan),
    "BatchNormalization": math.batch_normalisation,
    "LpNormalization": math.normalise_axis,
    "MatMul": math.matmul,
    "Gemm": math.gemm,
    "Einsum": math.einsum,
    "Transpose": layout.transpose,
    "Reshape": layout.reshape,
    "Flatten": layout.flatten,
    "Squeeze": layout.squeeze,
    "Unsqueeze": layout.unsqueeze,
    "Slice": parts.slice_,
    "Split": parts.split,
    "Gather": parts.gather,
    "GatherElements": parts.gather_elements,
    "GatherND": parts.gather_nd,
    "Concat": parts.concat,
    "Expand": layout.expand,
    "Tile": layout.tile,
    SELECTIVE_SCAN: scans.selective_scan,
    RESTORE: layout.restored,
}
