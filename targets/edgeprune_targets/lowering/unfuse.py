"""Attention that no runtime fuses, for devices whose fused kernels are wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import constant_of, static_shape
from edgeprune_targets.attentions import is_attention, own_core
from edgeprune_targets.lowering._rewrite import nodes_of, replace, tape_before

if TYPE_CHECKING:
    import onnx_ir as ir

PADDING = 8  # columns; keeps rows aligned for the plain product


def unfuse_attention(model: ir.Model) -> int:
    """Append `PADDING` columns of zeros to the values, and take them off the result again.

    Fused kernels have one head size for queries, keys and values. TensorRT-RTX 1.7 fuses nothing where they differ;
    its matcher sees through reshapes to three axes, and earlier ones fuse less than it does. The cost is the share
    PADDING / Dh of the second product. Beside the order of sums the numbers stay.
    """
    done = 0
    for softmax in nodes_of(model, "Softmax"):
        if is_attention(softmax):
            for mix in _mixes(softmax):
                done += _pad(model, mix)
    return done


def _mixes(softmax: ir.Node) -> list[ir.Node]:
    """Products of the probabilities with the values, in the order of the graph."""
    behind = {softmax}
    found = []
    core = own_core(softmax)
    for node in softmax.graph or ():
        if node in core and any(v is not None and v.producer() in behind for v in node.inputs):
            behind.add(node)
            if node.op_type == "MatMul":
                found.append(node)
    return found


def _pad(model: ir.Model, mix: ir.Node) -> int:
    value = mix.inputs[1]
    shape = static_shape(value) if value is not None else None
    if value is None or shape is None or constant_of(value) is not None or value.dtype is None:
        return 0
    tape = tape_before(model, mix)
    zeros = tape.constant(np.zeros((*shape[:-1], PADDING), value.dtype.numpy()))
    wide = tape.op("MatMul", mix.inputs[0], tape.op("Concat", value, zeros, axis=-1))
    rank = len(tape.shape(wide))
    replace(model, mix, tape.slice(wide, rank - 1, 0, shape[-1]))
    return 1
