"""Readers of the graph, invariants, the tape that writes, and shapes of what it writes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.flow import graph, ints

from edgeprune.core.errors import PassError
from edgeprune.core.graph import captured, constant_of, consumers, downstream, name_of, static_shape, upstream
from edgeprune.core.invariants import check_invariants
from edgeprune.core.passes import PassResult, Pipeline
from edgeprune.core.tape import Tape, clone_constant, fresh_name

HINT = "this is a bug in edgeprune; please report it with the model's architecture"
BODY = "a = Add(x, c) b = Mul(a, a) d = Neg(b) y = Add(a, d)"


@pytest.fixture
def model() -> ir.Model:
    return graph(BODY, c=np.ones((12,), np.float32)).model()


def value(model: ir.Model, name: str) -> ir.Value:
    return next(v for node in model.graph for v in node.outputs if v.name == name)


def test_neighbours_in_the_graph(model):
    a, b = value(model, "a"), value(model, "b")
    assert [node.name for node in consumers(a)] == ["Mul1", "Add3"]
    assert {node.name for node in downstream([b])} == {"Neg2", "Add3"}
    assert {node.name for node in upstream(b)} == {"Add0", "Mul1"}
    assert name_of(b.producer()) == "Mul1"
    b.producer().name = ""
    assert name_of(b.producer()) == "b"


def test_shapes_and_constants(model):
    x, c = model.graph.inputs[0], model.graph.initializers["c"]
    assert static_shape(x) == (2, 7, 12)
    assert constant_of(c).tolist() == [1.0] * 12
    assert constant_of(x) is None
    assert constant_of(None) is None
    x.shape = ir.Shape(["batch", 7, 12])
    assert static_shape(x) is None
    model.graph.inputs.append(c)
    assert constant_of(c) is None, "an input with a default may be given another value"


def test_a_subgraph_reads_what_it_does_not_compute(model):
    a = value(model, "a")
    inner = ir.node("Neg", [a], name="inner")
    inner.outputs[0].name = "inner"
    body = ir.Graph([], [inner.outputs[0]], nodes=[inner], name="body")
    node = ir.node("If", [model.graph.inputs[0]], {"then_branch": body}, name="if")
    assert list(captured(node)) == [a]
    assert list(captured(inner)) == []


def test_a_sound_graph_passes(model):
    check_invariants(model, after="test")


def broken_order(model):
    node = next(iter(model.graph))
    model.graph.remove(node)
    model.graph.append(node)


def twice_named(model):
    value(model, "d").name = "b"


def lost_output(model):
    node = value(model, "y").producer()
    node.outputs[0].name = "z"
    model.graph.outputs[0] = ir.Value(name="y")


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (broken_order, "after the pass test: `a` is read before it is computed at Mul1"),
        (twice_named, "after the pass test: two values are named `b` at Neg2"),
        (lost_output, "after the pass test: the graph output `y` is computed nowhere at outputs"),
    ],
)
def test_a_broken_graph_names_pass_rule_and_node(model, breaking, message):
    breaking(model)
    with pytest.raises(PassError) as caught:
        check_invariants(model, after="test")
    assert (caught.value.message, caught.value.hint) == (message, HINT)


class Breaking:
    name = "breaking"

    def apply(self, model):
        broken_order(model)
        return PassResult(model, 1)


def test_a_pipeline_checks_after_each_pass(model):
    with pytest.raises(PassError, match="after the pass breaking"):
        Pipeline(passes=(Breaking(),)).apply(model)


def test_a_tape_writes_in_order_with_names_types_and_shapes(model):
    tape = Tape(model, before=value(model, "d").producer(), prefix="edgeprune/test")
    half = tape.slice(value(model, "b"), 1, 0, 3, name="half")
    first, index = tape.ops("TopK", half, tape.ints([2]), outputs=2, axis=-1, name="best")
    mean = tape.reduce("ReduceMean", first, 2)
    names = [node.name for node in model.graph]
    assert names == [
        "Add0",
        "Mul1",
        "edgeprune/test/half",
        "edgeprune/test/best",
        "edgeprune/test/ReduceMean",
        "Neg2",
        "Add3",
    ]
    assert [v.name for v in first.producer().outputs] == ["edgeprune/test/best_0", "edgeprune/test/best_1"]
    assert (static_shape(index), index.dtype) == ((2, 3, 2), ir.DataType.INT64)
    assert (static_shape(mean), mean.dtype) == ((2, 3), ir.DataType.FLOAT)
    check_invariants(model, after="tape")


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_a_reduction_has_its_axes_where_the_opset_wants_them(opset):
    model = graph("y = Neg(x)", opset=opset).model()
    tape = Tape(model, before=None, prefix="p")
    for kind in ("ReduceMean", "ReduceSum", "ReduceMax"):
        result = tape.reduce(kind, model.graph.inputs[0], 1)
        as_input = opset >= 18 or kind == "ReduceSum"
        assert ("axes" in result.producer().attributes) != as_input
        assert static_shape(result) == (2, 12)


def test_equal_constants_of_a_tape_are_one(model):
    tape = Tape(model, before=None, prefix="p")
    assert tape.ints([1, 2]) is tape.ints([1, 2])
    assert tape.ints([1, 2]) is not tape.constant(np.array([1, 2], np.int32))
    assert tape.scalar(1.0) is not tape.constant(np.ones(1, np.float32))
    assert static_shape(tape.scalar(1.0)) == ()
    assert tape.slice(value(model, "b"), 1, 0, 7) is value(model, "b")


def test_a_name_that_is_taken_gets_a_number(model):
    assert [fresh_name(model, "a"), fresh_name(model, "a"), fresh_name(model, "Mul1"), fresh_name(model, "new")] == [
        "a_1",
        "a_2",
        "Mul1_1",
        "new",
    ]


def test_a_cloned_constant_leaves_the_old_one_alone():
    model = graph("r = Reshape(x, s) y = Reshape(r, s)", s=ints(2, 7, 12)).model()
    old = model.graph.initializers["s"]
    new = clone_constant(model, old, ints(2, 4, 12))
    assert new is not old
    assert model.graph.initializers[new.name] is new
    assert constant_of(old).tolist() == [2, 7, 12]


def test_what_onnx_rejects_is_our_bug(model):
    tape = Tape(model, before=None, prefix="p")
    with pytest.raises(PassError, match=r"^ONNX rejects the node p/MatMul \(MatMul\)") as caught:
        tape.op("MatMul", model.graph.inputs[0], tape.constant(np.ones((5, 5), np.float32)))
    assert caught.value.hint == HINT
