"""The proof of width cuts: weights padded with zeros in the dense graph against the graph that was made smaller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import PREFIX
from edgeprune.core.linear import linear_of
from edgeprune.core.recognition import recognize
from edgeprune.core.results import Exactness
from edgeprune.core.tape import Tape, clone_constant
from edgeprune.core.widths.find import find_widths
from edgeprune.core.widths.groups import group_name
from edgeprune_calibration.runner import Runner
from edgeprune_passes._narrow import put_bias

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.compiler.proving.proofs import Feed
    from edgeprune.core.linear import Linear
    from edgeprune.core.plan import Plan
    from edgeprune.core.widths.arrays import Arrays
    from edgeprune.core.widths.groups import Sublayer, WidthGroup, Widths

METHOD = "zeroed-dense"

# The same sums without the terms that are zero, in another order: as for tokens, see `oracle.TOLERANCE`.
_TOLERANCE = 1e-4
_SENSITIVITY = 20


def prove_widths(
    dense: ir.Model, narrow: ir.Model, plan: Plan, arrays: Arrays, feed: Feed, *, threads: int
) -> Exactness:
    """Whether the smaller graph computes what the dense one does with zeros in place of what was removed."""
    padded = dense.clone()
    _pad(padded, plan, arrays)
    want, found, before = (
        Runner(model, threads=threads, optimise=False).run(feed) for model in (padded, narrow, dense)
    )
    pairs = [(want[name].astype(np.float64), found[name], before[name]) for name in want]
    error = max(float(np.abs(a - b).max()) for a, b, _ in pairs)
    scale = max(float(np.abs(a).max()) for a, _, _ in pairs)
    sensitivity = max(float(np.abs(a - c).max()) for a, _, c in pairs)
    passed = error <= _TOLERANCE * scale and sensitivity >= _SENSITIVITY * error
    return Exactness(
        method=METHOD, max_abs_error=error, max_abs_value=scale, sensitivity=sensitivity, passed=bool(passed)
    )


def _pad(model: ir.Model, plan: Plan, arrays: Arrays) -> None:
    """Write the solved weights into the dense graph, zero wherever a unit went, and means over sublayers that went."""
    widths = find_widths(model, recognize(model))
    for cut in plan.widths:
        name = group_name(cut.kind, cut.block, cut.number)
        sublayer = widths.sublayer(name)
        if sublayer is not None:
            _overwrite(model, sublayer, arrays[f"{name}/mean"])
            continue
        group = widths.named(name)
        assert group is not None
        _fill(model, group.consumer, arrays, f"{group.name}/consumer", _masks(widths, group, arrays, None)[:, None])
        for i, linear in enumerate(group.beside):
            stays = group.mask(arrays[f"{group.name}/kept"])[group.rows_of(linear)]
            _fill(model, linear, arrays, f"{group.name}/beside{i}", stays[:, None])
        for i, linear in enumerate(group.producers if group.kind == "head-size" else ()):
            _fill(model, linear, arrays, f"{group.name}/producer{i}", _masks(widths, group, arrays, i)[None, :])


def _overwrite(model: ir.Model, sublayer: Sublayer, mean: np.ndarray) -> None:
    """Let a sublayer run, multiply what it adds by zero, and add its mean."""
    old = sublayer.join.inputs[sublayer.index]
    assert old is not None
    dtype = old.dtype.numpy() if old.dtype is not None else np.float32
    tape = Tape(model, before=sublayer.join, prefix=f"{PREFIX}proof/{sublayer.name}")
    zero = tape.op("Mul", old, tape.constant(np.zeros((), dtype), name="zero"))
    row = tape.op("Add", zero, tape.constant(mean.astype(dtype), name="mean"))
    sublayer.join.replace_input_with(sublayer.index, row)


def _masks(widths: Widths, group: WidthGroup, arrays: Arrays, producer: int | None) -> np.ndarray:
    """Rows of the consumer, or columns of a producer, that stay; heads that went are gone for the head size too."""
    stays = np.ones(len(group.rows if producer is None else group.columns[producer]), bool)
    heads = widths.named(f"heads.{group.block}") if group.kind == "head-size" else None
    for each in (group, heads):
        if each is not None and f"{each.name}/kept" in arrays:
            units = each.rows if producer is None else each.columns[producer]
            stays &= each.mask(arrays[f"{each.name}/kept"])[units]
    return stays


def _fill(model: ir.Model, linear: Linear, arrays: Arrays, role: str, stays: np.ndarray) -> None:
    linear = linear_of(linear.node) or linear  # it may have been given a bias
    weight = linear.weight
    new = np.where(stays, weight, 0).astype(weight.dtype)
    solved = arrays.get(f"{role}.weight")
    if solved is not None:
        new[np.broadcast_to(stays, new.shape)] = solved.reshape(-1)
    laid = np.ascontiguousarray(new.T if linear.transposed else new)
    old = linear.node.inputs[1]
    assert old is not None
    linear.node.replace_input_with(1, clone_constant(model, old, laid))
    bias = arrays.get(f"{role}.bias")
    if bias is not None:
        whole = bias if stays.shape[0] > 1 else _spread(bias, stays[0])
        put_bias(model, linear, whole)


def _spread(bias: np.ndarray, stays: np.ndarray) -> np.ndarray:
    out = np.zeros(len(stays), bias.dtype)
    out[stays] = bias
    return out
