"""A weight that multiplies from the left becomes one that multiplies from the right: W x^T is (x W^T)^T.

Mamba's projection of the step is written so in transformers and mambapy; what reads linear maps looks on the right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import PREFIX, constant_of
from edgeprune.core.tape import Tape, fresh_name
from edgeprune_passes.scans._edit import replace_value
from edgeprune_passes.scans._views import perm_of

if TYPE_CHECKING:
    import onnx_ir as ir


def turn_left_products(model: ir.Model) -> int:
    """Rewrite MatMul(W, Transpose(x)) of a constant matrix W; how many."""
    changes = 0
    for node in [node for node in model.graph if node.op_type == "MatMul"]:
        weight, turned = constant_of(node.inputs[0]), node.inputs[1]
        source = _turned(turned.producer()) if turned is not None else None
        if weight is None or weight.ndim != 2 or source is None:
            continue
        tape = Tape(model, before=node, prefix=fresh_name(model, f"{PREFIX}left"))
        product = tape.op("MatMul", source, tape.constant(np.ascontiguousarray(weight.T), name="weight"))
        replace_value(node.outputs[0], tape.op("Transpose", product, perm=_swap(len(tape.shape(product)))))
        changes += 1
    return changes


def _turned(node: ir.Node | None) -> ir.Value | None:
    """What a Transpose of the last two axes reads."""
    if node is None or node.op_type != "Transpose" or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    rank = len(node.inputs[0].shape)
    return node.inputs[0] if rank > 1 and perm_of(node, rank) == _swap(rank) else None


def _swap(rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2]
