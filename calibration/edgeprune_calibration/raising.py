"""Proof that raised scans compute what the source does: both graphs are run on the same input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.graph import PREFIX
from edgeprune.core.results import Exactness
from edgeprune.core.scans import selective_scans
from edgeprune.core.tape import add_initializer, fresh_name
from edgeprune_calibration.differences import largest_difference
from edgeprune_calibration.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Mapping

# A product of three factors is multiplied in another order: 1e-6 of the range at the most over the exports at hand.
# 1e-4 leaves room for deeper models; a scan that starts one token late is above 1e-2.
TOLERANCE = 1e-4
# What a scan adds to the outputs has to stand out of the error, or the comparison shows nothing.
_ABOVE_ERROR = 100.0


def prove_raised(
    source: ir.Model, canonical: ir.Model, feed: Mapping[str, np.ndarray], *, method: str, threads: int = 0
) -> Exactness:
    """Compare all outputs of the source with those of the graph in which its scans are raised.

    Args:
        source: as it stands in the file.
        canonical: with `edgeprune::SelectiveScan`, or with loops that were left as they are.
        feed: one input.
        method: what was run, in words.
        threads: of ONNX Runtime.

    Raises:
        ModelError: if ONNX Runtime cannot run one of them, as where the source has somebody's own operator.
    """
    expected = Runner(source, threads=threads, optimise=False).run(feed)
    found = Runner(canonical, threads=threads, optimise=False).run(feed)
    scans = bool(selective_scans(canonical.graph))
    without = Runner(_without_scans(canonical), threads=threads, optimise=False).run(feed) if scans else found
    error = max(largest_difference(expected[name], found[name]) for name in expected)
    scale = max(float(np.abs(values.astype(np.float64)).max(initial=0.0)) for values in expected.values())
    sensitivity = max(largest_difference(found[name], without[name]) for name in expected)
    return Exactness(
        method=method,
        max_abs_error=error,
        max_abs_value=scale,
        sensitivity=sensitivity,
        passed=error <= TOLERANCE * scale and (not scans or sensitivity > _ABOVE_ERROR * error),
    )


def _without_scans(canonical: ir.Model) -> ir.Model:
    """The same graph in which no scan gives anything."""
    model = canonical.clone()
    for node in selective_scans(model.graph):
        value = node.outputs[0]
        idle = ir.Value(name=f"{value.name}/idle", shape=value.shape, type=value.type)
        ir.convenience.replace_all_uses_with(value, idle, replace_graph_outputs=True)
        value.name, idle.name = idle.name, value.name
        zero = add_initializer(model, np.zeros((), np.float32), fresh_name(model, f"{PREFIX}zero"))
        model.graph.insert_after(node, ir.Node("", "Mul", [value, zero], outputs=[idle], name=f"{value.name}/Mul"))
    return model
