"""Where units start: every column of every projection is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.linear import Linear
    from edgeprune.core.widths.units import Units


def seeds_of(producers: Sequence[Linear]) -> dict[ir.Value, Units]:
    """Every column of every projection as a unit of its own."""
    seeds, at = {}, 0
    for linear in producers:
        value, width = linear.node.outputs[0], linear.weight.shape[1]
        rank = len(value.shape) if value.shape is not None else 1
        seeds[value] = np.arange(at, at + width).reshape((1,) * (rank - 1) + (-1,))
        at += width
    return seeds
