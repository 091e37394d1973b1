"""How each operator of a loop's body is written for all tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgeprune.core.graph import constant_of
from edgeprune_passes.scans._declined import DeclinedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir

    from edgeprune_passes.scans._lift import Lifter

    Lifted: TypeAlias = Sequence[ir.Value | None]

_UNARY = set(
    "Abs Cast Ceil Celu Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Log Mish Neg Not "
    "Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Tanh ThresholdedRelu".split()
)
_ELEMENTWISE = set(
    "Add And Clip Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mul Or Pow PRelu Sub Sum Where".split()
)
_REDUCTIONS = {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"}


def _elementwise(to: Lifter, node: ir.Node, lifted: Lifted) -> ir.Value:
    # Operands are aligned from the right, so only shorter ones need axes behind the tokens.
    rank = max(to.rank(node, i, lifted) for i in range(len(node.inputs)))
    operands = [to.operand(node, i, lifted, rank) for i in range(len(node.inputs))]
    return to.tape.op(node.op_type, *operands, **attributes_of(node))


def _matmul(to: Lifter, node: ir.Node, lifted: Lifted) -> ir.Value:
    # Vectors stay vectors only on the right, where NumPy's rule gives them a column.
    ranks = [to.rank(node, i, lifted) for i in (0, 1)]
    if min(ranks) < 2:
        raise DeclinedError(node, "a MatMul of vectors in the loop is not known")
    operands = [to.operand(node, i, lifted, max(ranks)) for i in (0, 1)]
    return to.tape.op("MatMul", *operands)


def _unsqueeze(to: Lifter, node: ir.Node, lifted: Lifted) -> ir.Value:
    # Axes behind the tokens move by one.
    own = _lifted(node, lifted)
    axes = _ints(node, 1, "axes")
    if axes is None:
        rank = to.tape.shape(own)
        axes = [i for i, size in enumerate(rank[1:]) if size == 1]
    return to.tape.op(node.op_type, own, to.tape.ints(_moved(axes)))


def _transpose(to: Lifter, node: ir.Node, lifted: Lifted) -> ir.Value:
    # The tokens stay in front.
    own = _lifted(node, lifted)
    rank = len(to.tape.shape(own)) - 1
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else list(range(rank))[::-1]
    return to.tape.op("Transpose", own, perm=[0, *(axis + 1 for axis in perm)])


def _reduction(to: Lifter, node: ir.Node, lifted: Lifted) -> ir.Value:
    # A sum over some axes of one token.
    own = _lifted(node, lifted)
    rank = len(to.tape.shape(own)) - 1
    axes = _ints(node, 1, "axes") or list(range(rank))
    keep = "keepdims" not in node.attributes or node.attributes["keepdims"].as_int() == 1
    return to.tape.reduce(node.op_type, own, tuple(axis % rank + 1 for axis in axes), keepdims=keep)


def _reshape(to: Lifter, node: ir.Node, lifted: Lifted) -> ir.Value:
    # A literal shape with the tokens in front.
    own = _lifted(node, lifted)
    target = _ints(node, 1, "shape")
    if target is None:
        raise DeclinedError(node, "a Reshape in the loop has a target that is computed")
    sizes = to.tape.shape(own)[1:]
    full = [sizes[i] if size == 0 else size for i, size in enumerate(target)]
    return to.tape.op("Reshape", own, to.tape.ints([to.tokens, *full]))


def _einsum(to: Lifter, node: ir.Node, lifted: Lifted) -> ir.Value:
    # One more letter, the tokens', on what differs by token.
    equation = node.attributes["equation"].as_string().replace(" ", "")
    terms, arrow, result = equation.partition("->")
    free = next(letter for letter in "tzyxwvuTZY" if letter not in equation)
    if not arrow or "." in equation:
        raise DeclinedError(node, "an Einsum in the loop names no result")
    split = [term if own is None else free + term for term, own in zip(terms.split(","), lifted, strict=True)]
    operands = [to.operand(node, i, lifted, 0) for i in range(len(node.inputs))]
    return to.tape.op("Einsum", *operands, equation=f"{','.join(split)}->{free}{result}")


def _expand(to: Lifter, node: ir.Node, lifted: Lifted) -> ir.Value:
    # A literal shape with the tokens in front.
    target = _ints(node, 1, "shape")
    if target is None:
        raise DeclinedError(node, "an Expand in the loop has a target that is computed")
    own = to.operand(node, 0, lifted, len(target))
    return to.tape.op("Expand", own, to.tape.ints([1, *target]))


def _picked(to: Lifter, node: ir.Node, lifted: Lifted) -> ir.Value:
    # A Gather with indices that are the same for every token.
    own = _lifted(node, lifted)
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if lifted[1] is not None or node.inputs[1] is None:
        raise DeclinedError(node, "a Gather in the loop has indices that differ by token")
    return to.tape.op("Gather", own, to.still(node.inputs[1]), axis=axis + 1 if axis >= 0 else axis)


def _ints(node: ir.Node, index: int, attribute: str) -> list[int] | None:
    if attribute in node.attributes:
        return list(node.attributes[attribute].as_ints())
    array = constant_of(node.inputs[index]) if len(node.inputs) > index else None
    return None if array is None else [int(i) for i in np.atleast_1d(array)]


def _lifted(node: ir.Node, lifted: Lifted) -> ir.Value:
    # The first operand, where only that one may differ by token.
    if lifted[0] is None or any(v is not None for v in lifted[1:]):
        raise DeclinedError(node, f"{node.op_type} in the loop has axes that differ by token")
    return lifted[0]


def _moved(axes: Sequence[int]) -> list[int]:
    return [axis + 1 if axis >= 0 else axis for axis in axes]


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """Attributes of a node as plain values."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


RULES: dict[str, Callable[[Lifter, ir.Node, Lifted], ir.Value]] = {
    **dict.fromkeys(_UNARY | _ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    "MatMul": _matmul,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _unsqueeze,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Expand": _expand,
    "Einsum": _einsum,
    "Gather": _picked,
}
