"""The proof that raised scans compute what the source does is true of right ones, and fails on every wrong one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.ssm import BATCH, CHANNELS, STATES, Spelled, feed, raised

from edgeprune.core.errors import ModelError
from edgeprune.core.scans import selective_scans
from edgeprune.core.tape import Tape
from edgeprune_calibration.raising import prove_raised

b, D, n = BATCH, CHANNELS, STATES
SCAN = f"""last_h, y = Scan<num_scan_inputs = 4, scan_input_axes = [1, 1, 1, 1], scan_output_axes = [1],
  body = token (float[{b},{D},{n}] h, float[{b},{D}] s_t, float[{b},{D}] u_t, float[{b},{n}] B_t, float[{b},{n}] C_t)
  => (float[{b},{D},{n}] h1, float[{b},{D}] y_t) {{ l = Unsqueeze(s_t, last) e = Mul(l, A) a = Exp(e) k = Mul(a, h)
  du = Mul(s_t, u_t) i = Unsqueeze(du, last) r = Unsqueeze(B_t, one) f = Mul(i, r) h1 = Add(k, f)
  c = Unsqueeze(C_t, one) m = Mul(h1, c) y_t = ReduceSum<keepdims=0>(m, last) }}> (zero, s, u, B, C)"""
CONSTANTS = {"zero": np.zeros((b, D, n), np.float32), "one": np.array([1]), "last": np.array([-1])}


@pytest.fixture
def source() -> ir.Model:
    return Spelled(lines=SCAN, constants=CONSTANTS).model()


def shifted(tape: Tape, value: ir.Value) -> ir.Value:
    """Every token reads its neighbour."""
    return tape.op("Concat", tape.slice(value, 1, 1, 6), tape.slice(value, 1, 0, 1), axis=1)


WRONG = {
    "one token late": lambda tape, node: shifted(tape, node.inputs[1]),
    "step for input": lambda _, node: node.inputs[0],
    "backwards": lambda tape, node: tape.op(
        "Slice", node.inputs[1], tape.ints([-1]), tape.ints([-(1 << 63)]), tape.ints([1]), tape.ints([-1])
    ),
    "a thousandth too much": lambda tape, node: tape.op("Mul", node.inputs[1], tape.scalar(1.001)),
}


def test_a_right_one_passes_and_the_scans_show(source: ir.Model) -> None:
    proof = prove_raised(source, raised(source), feed(), method="the source", threads=1)
    assert proof.passed
    assert proof.max_abs_error < 1e-6 * proof.max_abs_value
    assert proof.sensitivity > 0.1 * proof.max_abs_value


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_one_fails(source: ir.Model, name: str) -> None:
    made = raised(source)
    (node,) = selective_scans(made.graph)
    tape = Tape(made, before=node, prefix="wrong")
    node.replace_input_with(1, WRONG[name](tape, node))
    assert not prove_raised(source, made, feed(), method="the source", threads=1).passed


def test_a_scan_that_does_not_show_proves_nothing(source: ir.Model) -> None:
    given = feed()
    given["C"] = np.zeros_like(given["C"])
    assert not prove_raised(source, raised(source), given, method="the source", threads=1).passed


def test_an_operator_that_runs_nowhere_here_cannot_be_proved() -> None:
    lines = "".join(f"{name}t = Transpose<perm = [0, 2, 1]>({name}) " for name in "usBC")
    lines += "o = mine.selective_scan(ut, st, A, Bt, Ct) y = Transpose<perm = [0, 2, 1]>(o)"
    source = Spelled(lines=lines, domains=', "mine": 1').model()
    with pytest.raises(ModelError, match="ONNX Runtime cannot load"):
        prove_raised(source, raised(source), feed(), method="the source", threads=1)


def test_loops_that_were_left_are_compared_too(source: ir.Model) -> None:
    assert prove_raised(source, source, feed(), method="the source", threads=1).passed
    broken = source.clone()
    (scan,) = list(broken.graph)
    scan.replace_input_with(1, scan.inputs[2])
    assert not prove_raised(source, broken, feed(), method="the source", threads=1).passed
