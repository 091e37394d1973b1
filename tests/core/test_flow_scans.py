"""The flow over scans: tokens from last to first, class tokens among the patches, the operator and its convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import pytest
from support.flow import Graph, P, T, graph, ints, label_of, outputs, spelled

from edgeprune.core.flow.engine import Flow, run_flow
from edgeprune.core.flow.labels import Label, Resize, Segment, Tokens, sides
from edgeprune.core.scans import selective_scan
from edgeprune.core.tape import Tape

RNG = np.random.default_rng(0)
FIRST, LAST = -(2**63), 2**63 - 1
# Three patch tokens in front of two prefix tokens and two behind; two and one of them stay.
AROUND = np.array([[0, 2, 3, 4, 6], [0, 1, 3, 4, 5]])
PLACE = (3, 2)
TURN = {"s": ints(-1), "e": ints(FIRST), "a": ints(-2), "m": ints(-1)}


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def turned(body: str, letters: str, **extra: object) -> Graph:
    """A body that may flip by `Slice(x, s, e, a, m)`."""
    return graph(body, letters, **{**TURN, **extra})


FLIPS: dict[str, Callable[[str], Graph]] = {
    "flip": lambda b: turned("y = Slice(x, s, e, a, m)", b + "TD"),
    "flip by other ends": lambda b: turned("y = Slice(x, s, e, a, m)", b + "TD", s=ints(T - 1), e=ints(-T - 1)),
    "flip by far ends": lambda b: turned("y = Slice(x, s, e, a, m)", b + "TD", s=ints(LAST), e=ints(-99)),
    "flip and back": lambda b: turned("f = Slice(x, s, e, a, m) t = Tanh(f) y = Slice(t, s, e, a, m)", b + "TD"),
    "flip on the last axis": lambda b: turned("y = Slice(x, s, e, a, m)", b + "DT", a=ints(-1)),
    "flip in int32": lambda b: turned(
        "y = Slice(x, s, e, a, m)", b + "TD", s=np.int32([-1]), e=np.int32([-T - 1]), a=np.int32([-2]), m=np.int32([-1])
    ),
    "table meets flipped tokens": lambda b: turned("f = Slice(x, s, e, a, m) y = Add(f, c)", b + "TD", c=real(T, 12)),
    "table of all samples": lambda b: turned(
        "f = Slice(x, s, e, a, m) y = Add(f, c)", b + "TD", c=real(*((2,) if b else ()), T, 12)
    ),
    "table, then back": lambda b: turned(
        "f = Slice(x, s, e, a, m) g = Add(f, c) h = Slice(g, s, e, a, m) y = Add(h, x)", b + "TD", c=real(T, 12)
    ),
    "heads of flipped tokens": lambda b: turned(
        "f = Slice(x, s, e, a, m) y = Reshape(f, r)", (b or "1") + "TD", r=ints(0, T, 3, 4)
    ),
}
PARTS: dict[str, Callable[[str], Graph]] = {
    "prefix of flipped tokens": lambda b: turned(
        "f = Slice(x, s, e, a, m) y = Slice(f, i, j, a)", b + "TD", i=ints(2), j=ints(4)
    ),
    "behind the prefix": lambda b: turned("y = Slice(x, i, j, a)", b + "TD", i=ints(5), j=ints(LAST)),
    "in front of the prefix": lambda b: turned("y = Slice(x, i, j, a)", b + "TD", i=ints(0), j=ints(3)),
    "one of the prefix": lambda b: turned("y = Gather<axis=-2>(x, i)", b + "TD", i=np.asarray(4)),
    "both, from the end": lambda b: turned("y = Gather<axis=-2>(x, i)", b + "TD", i=ints(-4, -3)),
    "one of the flipped prefix": lambda b: turned(
        "f = Slice(x, s, e, a, m) y = Gather<axis=-2>(f, i)", b + "TD", i=ints(2, 3)
    ),
    "apart and together": lambda b: turned(
        "p, q, r = Split<axis=-2>(x, z) t = Tanh(q) g = Add(r, c) y = Concat<axis=-2>(p, t, g)",
        b + "TD",
        z=ints(3, 2, 2),
        c=real(2, 12),
    ),
    "apart and together, flipped": lambda b: turned(
        "f = Slice(x, s, e, a, m) p, q, r = Split<axis=-2>(f, z) g = Mul(r, c) h = Concat<axis=-2>(p, q, g)"
        " y = Slice(h, s, e, a, m)",
        b + "TD",
        z=ints(2, 2, 3),
        c=real(3, 12),
    ),
}


@pytest.mark.parametrize("batch", ["", "B"], ids=["batch 1", "batch 2"])
@pytest.mark.parametrize("name", FLIPS)
def test_flipped_tokens_are_the_rows_that_stayed(name: str, batch: str) -> None:
    found, wanted, _ = outputs(FLIPS[name](batch))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("batch", ["", "B"], ids=["batch 1", "batch 2"])
@pytest.mark.parametrize("name", [*FLIPS, *PARTS])
def test_prefix_tokens_stand_among_the_patches(name: str, batch: str) -> None:
    found, wanted, _ = outputs((FLIPS | PARTS)[name](batch), AROUND, PLACE)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_flipping_twice_is_nothing() -> None:
    once = label_of(FLIPS["flip"]("B"))
    twice = label_of(FLIPS["flip and back"]("B"))
    assert once is not None
    assert once.tokens_at(1) == Tokens((Segment(0, T),), flipped=True)
    assert twice == spelled("BTD")


def test_a_literal_that_covers_all_of_many_covers_all_of_few() -> None:
    item = FLIPS["flip by other ends"]("B").model()
    flow = run_flow(list(item.graph), {item.graph.inputs[0]: spelled("BTD")}, Resize(T, 4, P))
    assert not flow.edits


def scanned(
    labels: Mapping[str, str], resize: Resize | None = None, sizes: Mapping[str, int] | None = None
) -> tuple[Flow, ir.Model]:
    """The flow through a lone scan whose operands have these labels; letters in lower case carry none."""
    values, seeds = [], {}
    for name, letters in labels.items():
        label = spelled(letters.upper(), {"N": 4, **(sizes or {})})
        value = ir.Value(name=name, shape=ir.Shape(label.shape), type=ir.TensorType(ir.DataType.FLOAT))
        values.append(value)
        if letters.isupper() and name != "A":
            seeds[value] = label
    node = selective_scan(values, name="y")
    model = ir.Model(ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 18}), ir_version=10)
    return run_flow([node], seeds, resize or Resize(T, 5, P)), model


PLAIN = {"step": "BTD", "input": "BTD", "A": "DN", "B": "BTN", "C": "BTN"}


def test_a_scan_gives_one_row_a_token() -> None:
    flow, model = scanned(PLAIN)
    assert not flow.refusals
    assert flow.labels[model.graph.outputs[0]] == spelled("BTD")
    assert not flow.edits


def test_an_operand_of_the_old_length_is_taken_along() -> None:
    flow, _ = scanned({**PLAIN, "C": "btn"})
    assert not flow.refusals
    (edits,) = flow.edits.values()
    assert [(edit.index, edit.axis) for edit in edits] == [(4, -2)]  # type: ignore[union-attr]


REFUSED = {
    "tokens on the channels": (
        {"step": "BDT", "input": "BDT", "A": "tn", "B": "bdn", "C": "bdn"},
        ("scan-over-tokens", "a scan runs along another axis than the tokens' (SelectiveScan node)"),
    ),
    "tokens on the first axis": (
        {"step": "TB1", "input": "TB1", "A": "1n", "B": "TBN", "C": "TBN"},
        ("scan-over-tokens", "a scan runs along another axis than the tokens' (SelectiveScan node)"),
    ),
    "other tokens": (
        {"step": "BTD", "input": "BTD", "A": "dn", "B": "BPN", "C": "BTN"},
        ("token-segments-differ", "two operands carry different tokens along one axis (SelectiveScan node)"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_scan_refuses_word_for_word(name: str) -> None:
    labels, expected = REFUSED[name]
    flow, _ = scanned(labels)
    assert [(r.code.value, r.reason) for r in flow.refusals.values()] == [expected]


def test_tokens_of_both_directions_are_refused() -> None:
    body = "f = Slice(x, s, e, a, m) y = Add(x, f)"
    item = turned(body, "BTD").model()
    flow = run_flow(list(item.graph), {item.graph.inputs[0]: spelled("BTD")}, Resize(T, 4, P))
    reason = "tokens from first to last meet tokens from last to first (Add node)"
    assert [(r.code.value, r.reason, r.at) for r in flow.refusals.values()] == [("position-bound", reason, ("Add1",))]


def test_tokens_of_both_directions_are_not_joined() -> None:
    body = "p = Slice(x, i, j, a) q = Slice(x, j, k, a) f = Slice(q, s, e, a, m) y = Concat<axis=1>(p, f)"
    item = turned(body, "BTD", i=ints(0), j=ints(P), k=ints(T)).model()
    flow = run_flow(list(item.graph), {item.graph.inputs[0]: spelled("BTD")}, Resize(T, 4, P))
    reason = "tokens from first to last are joined with tokens from last to first (Concat node)"
    assert [r.reason for r in flow.refusals.values()] == [reason]


def test_a_constant_order_is_refused() -> None:
    item = graph("y = Gather<axis=1>(x, i)", i=ints(0, 1, 2, 4, 3, 5, 6)).model()
    flow = run_flow(list(item.graph), {item.graph.inputs[0]: spelled("BTD")}, Resize(T, 4, P))
    reason = "a constant index puts all tokens in another order (Gather node)"
    assert [(r.code.value, r.reason) for r in flow.refusals.values()] == [("position-bound", reason)]


def convolved(*, pads: tuple[int, int] = (3, 0), kernel: int = 4, group: int = 12, behind: str = "scan") -> Flow:
    """The flow through two scans; in front of the second a convolution over its tokens."""
    label = Label(((*spelled("B").axes[0],), (12,), spelled("T").axes[0]))
    x = ir.Value(name="x", shape=ir.Shape(label.shape), type=ir.TensorType(ir.DataType.FLOAT))
    model = ir.Model(ir.Graph([x], [], nodes=[], opset_imports={"": 18}, name="g"), ir_version=10)
    tape = Tape(model, before=None, prefix="t")

    def scan(value: ir.Value, name: str) -> ir.Value:
        rows = tape.op("Transpose", value, perm=[0, 2, 1])
        state = tape.slice(rows, 2, 0, 4)
        node = selective_scan((rows, rows, tape.constant(-np.ones((12, 4), np.float32)), state, state), name=name)
        model.graph.append(node)
        return tape.op("Transpose", node.outputs[0], perm=[0, 2, 1])

    weight = tape.constant(real(12, 12 // group, kernel))
    value = tape.op("Conv", scan(x, "first"), weight, pads=list(pads), group=group, kernel_shape=[kernel], name="conv")
    value = tape.op("Mul", tape.op("Sigmoid", value), value)
    if behind == "scan":
        scan(value, "second")
    if behind == "product":
        rows = tape.op("MatMul", tape.op("Transpose", value, perm=[0, 2, 1]), tape.constant(real(12, 12)))
        scan(tape.op("Transpose", rows, perm=[0, 2, 1]), "second")
    return run_flow(list(model.graph), {x: label}, Resize(T, 5, P))


def test_a_causal_convolution_serves_a_scan() -> None:
    assert not convolved().refusals
    assert convolved(pads=(0, 0), kernel=1).refusals == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"pads": (2, 1)},
        {"pads": (0, 3)},
        {"group": 6},
        {"behind": "nothing"},
        {"behind": "product"},
    ],
    ids=["looks ahead", "looks ahead alone", "mixes channels", "no scan behind it", "a product between"],
)
def test_any_other_convolution_is_refused_behind_a_scan(wrong: dict[str, object]) -> None:
    refusals = list(convolved(**wrong).refusals.values())  # type: ignore[arg-type]
    reason = "a convolution or pool runs over neighbouring tokens (Conv node)"
    assert [(r.code.value, r.reason, r.at) for r in refusals] == [("convolution-over-tokens", reason, ("t/conv",))]


@pytest.mark.parametrize(
    ("patches", "place", "keep", "expected"),
    [
        (10, 0, 4, (0, 4)),
        (10, 5, 4, (2, 2)),
        (10, 5, 5, (2, 3)),
        (10, 1, 6, (1, 5)),
        (10, 9, 6, (5, 1)),
        (10, 10, 6, (6, 0)),
        (10, 5, 1, (0, 1)),
        (10, 4, 10, (4, 6)),
        (0, 0, 0, (0, 0)),
    ],
)
def test_as_many_stay_on_either_side_as_there_are(
    patches: int, place: int, keep: int, expected: tuple[int, int]
) -> None:
    assert sides(patches, place, keep) == expected
    assert sum(expected) == keep
