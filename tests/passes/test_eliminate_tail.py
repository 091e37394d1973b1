"""What tail elimination saves, to the unit, and what it must not touch."""

from __future__ import annotations

import numpy as np
import pytest
from support.surgery import canonical, forward
from support.tiny_torch import Spelling, example

from edgeprune.core.costs import count_macs
from edgeprune_passes.eliminate_tail import EliminateTail


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("spelling", "changes"),
    [
        (Spelling(), 2),
        (Spelling(attention="packed"), 2),
        (Spelling(attention="mha"), 2),
        (Spelling(attention="separate"), 1),
        (Spelling(prefix=2, head="two"), 2),
        (Spelling(norm="post", prefix=5), 2),
    ],
    ids=str,
)
def test_all_but_keys_and_values_runs_for_prefix_rows_alone(spelling: Spelling, changes: int, batch: int) -> None:
    """Fused projections are split first, so that the queries of patch tokens are saved too."""
    dense, short = canonical(spelling, batch), canonical(spelling, batch)
    assert EliminateTail().apply(short).changes == changes
    T, D, gone = spelling.tokens, spelling.width, spelling.tokens - spelling.prefix
    queries, projection, mlp, attention = D * D, D * D, 4 * D * D, 2 * T * D
    assert count_macs(dense) - count_macs(short) == batch * gone * (queries + projection + mlp + attention)


@pytest.mark.parametrize("inner", ["q/MatMul", "q/Add", "k/Add", "v/Add", "out/MatMul"])
def test_an_inner_value_that_is_an_output_keeps_its_rows(inner: str) -> None:
    spelling = Spelling(attention="separate")
    dense = canonical(spelling, 1)
    name = f"/blocks.2/attention/{inner}_output_0"
    dense.graph.outputs.append(next(v for node in dense.graph for v in node.outputs if v.name == name))
    short = dense.clone()
    EliminateTail().apply(short)
    feeds = example(spelling, 1)
    for output, wanted in forward(dense, feeds).items():
        np.testing.assert_allclose(forward(short, feeds)[output], wanted, rtol=1e-5, atol=1e-5)  # other order of sums
