"""What every mode of restoring keeps, on a transformer with three taps."""

from __future__ import annotations

from dataclasses import is_dataclass

import onnx
import onnx_ir as ir
import pytest
from support.surgery import canonical, reduce
from support.tiny_torch import Spelling

from edgeprune.core.graph import static_shape
from edgeprune_passes.registry import restores

STATES = Spelling(head="states")
NAMES = sorted(restores())


def restored(name: str) -> ir.Model:
    model = canonical(STATES, 2)
    reduce(model, {0: 18, 1: 13}, "ward-merge", restore=name)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_a_mode_is_a_frozen_dataclass_that_says_what_it_is(name):
    kind = restores()[name]
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert (kind.name, bool(kind.source)) == (name, True)
    for word in ("Refuses:", "Cost:", "Source:"):
        assert word in kind.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_restored_graphs_are_static_valid_and_free_of_scatters(name):
    model = restored(name)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    operators = {node.op_type for node in model.graph}
    assert not operators & {"ScatterND", "ScatterElements", "NonZero", "Unique", "Compress", "Restore"}
    assert all(static_shape(value) is not None for node in model.graph for value in node.outputs)
    assert [static_shape(value) for value in model.graph.outputs] == [(2, 26, 24)] * 3


@pytest.mark.parametrize("name", NAMES)
def test_the_same_cuts_give_the_same_bytes(name):
    one, other = (ir.to_proto(restored(name)).SerializeToString(deterministic=True) for _ in range(2))
    assert one == other
