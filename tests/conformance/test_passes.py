"""What every registered pass keeps, tried on a real model."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from edgeprune.core.invariants import check_invariants
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.registry import passes

NAMES = sorted(passes())


# A pass that runs the user's own function promises nothing about what that function does.
OURS = [name for name in NAMES if name != "graphsurgeon"]


def canonical(path: Path) -> ir.Model:
    """The model as every pass but the first one meets it."""
    model = ir.load(path)
    Canonicalize(batch=1).apply(model)
    return model


def text(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_is_a_frozen_dataclass_with_a_docstring(name):
    kind = passes()[name]
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert kind.name == name
    assert kind.__doc__.splitlines()[0].endswith(".")


@pytest.mark.parametrize("name", OURS)
def test_a_second_run_changes_nothing(name, digits):
    model = canonical(digits)
    passes()[name]().apply(model)
    once = text(model)
    assert passes()[name]().apply(model).changes == 0
    assert text(model) == once


@pytest.mark.parametrize("name", OURS)
def test_the_same_model_gives_the_same_bytes_and_a_valid_graph(name, digits):
    first, second = canonical(digits), canonical(digits)
    for model in (first, second):
        passes()[name]().apply(model)
        check_invariants(model, after=name)
    assert text(first) == text(second)
    onnx.checker.check_model(ir.to_proto(first), full_check=True)


@pytest.mark.parametrize("name", OURS)
def test_the_interface_stays(name, digits):
    model = canonical(digits)
    before = [(v.name, v.dtype, v.shape) for v in (*model.graph.inputs, *model.graph.outputs)]
    passes()[name]().apply(model)
    assert [(v.name, v.dtype, v.shape) for v in (*model.graph.inputs, *model.graph.outputs)] == before
