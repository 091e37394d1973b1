"""A Loop over tokens, and somebody's own operator, become one selective scan that gives the same numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.ssm import BATCH, CHANNELS, STATES, TOKENS, Spelled, apart, expected, feed, matrix, operators, raised, run

from edgeprune.core.scans import is_selective_scan
from edgeprune_passes.canonicalize import Canonicalize

b, T, D, n = BATCH, TOKENS, CHANNELS, STATES
CONSTANTS = {
    "zero": np.zeros((b, D, n), np.float32),
    "none": np.zeros((b, 0, D), np.float32),
    "steps": np.array(T),
    "go": np.array([True]).reshape(()),
    "i0": np.array(0),
    "i1": np.array(1),
    "top": np.array(T - 1),
    "one": np.array([1]),
    "two": np.array([2]),
    "last": np.array([-1]),
    "all_from": np.array([0]),
    "all_to": np.array([2**63 - 1]),
    "bias": np.linspace(-1, 1, D, dtype=np.float32),
    "grouped": np.ones((b, 3, n, T), np.float32),
    "skip": np.linspace(1, 2, D, dtype=np.float32),
}
CARRY = "int64 i, bool go_in, "
STATE = f"float[{b},{D},{n}] h"
BULK = """s1 = Unsqueeze(s, last) e = Mul(s1, A) a = Exp(e) su = Mul(s, u) s3 = Unsqueeze(su, last)
  B3 = Unsqueeze(B, two) f = Mul(s3, B3)"""
STEP = "a_t = Gather<axis = 1>(a, i) f_t = Gather<axis = 1>(f, i) k = Mul(a_t, h) h1 = Add(k, f_t)"
READ = "C_t = Gather<axis = 1>(C, i) c1 = Unsqueeze(C_t, last) m = MatMul(h1, c1) y_t = Squeeze(m, last)"
ON = "go_out = Identity(go_in)"


def scanned(step: str = STEP, read: str = READ, going: str = ON, inputs: str = "steps, go, zero") -> str:
    """Collected as a scan output."""
    return f"""{BULK} final, ys = Loop<body = step ({CARRY}{STATE}) => (bool go_out, float[{b},{D},{n}] h1,
      float[{b},{D}] y_t) {{ {going} {step} {read} }}>({inputs}) y = Transpose<perm = [1, 0, 2]>(ys)"""


def carried(extra: str, inner: str, outer: str, start: str, behind: str) -> str:
    """Collected in what the loop carries beside the state."""
    return f"""{BULK} {start} final, {outer} = Loop<body = step ({CARRY}{STATE}, {extra} before) =>
      (bool go_out, float[{b},{D},{n}] h1, {extra} after) {{ {ON} {STEP} {READ} {inner} }}>(steps, go, zero, empty)
      {behind}"""


def counted() -> str:
    """A number of the loop's own says which token is read."""
    step = STEP.replace("(a, i)", "(a, at)").replace("(f, i)", "(f, at)")
    return f"""{BULK} final, count, ys = Loop<body = step ({CARRY}{STATE}, int64 at) => (bool go_out,
      float[{b},{D},{n}] h1, int64 next, float[{b},{D}] y_t) {{ {ON} {step} next = Add(at, i1) {READ} }}>
      (steps, go, zero, i0) y = Transpose<perm = [1, 0, 2]>(ys)"""


INSIDE = """s_t = Gather<axis = 1>(s, i) u_t = Gather<axis = 1>(u, i) B_t = Gather<axis = 1>(B, i)
  l = Unsqueeze(s_t, last) e_t = Mul(l, A) a_t = Exp(e_t) su_t = Mul(s_t, u_t) i_t = Unsqueeze(su_t, last)
  r_t = Unsqueeze(B_t, one) f_t = Mul(i_t, r_t) k = Mul(a_t, h) h1 = Add(k, f_t)"""
SPELLINGS = {
    "scan output": scanned(),
    "all inside": scanned(INSIDE).replace(BULK, ""),
    "a slice of all before each read": scanned(
        STEP.replace("Gather<axis = 1>(a, i)", "Gather<axis = 1>(a_all, i)").replace(
            "a_t =", "a_all = Slice(a, all_from, all_to, all_from, one) a_t =", 1
        )
    ),
    "one wide": scanned(
        STEP.replace(
            "f_t = Gather<axis = 1>(f, i)",
            "j = Unsqueeze(i, all_from) j1 = Add(j, one) w = Slice(f, j, j1, one) f_t = Squeeze(w, one)",
        )
    ),
    "in a list": carried(
        f"seq(float[{b},{D}])",
        "after = SequenceInsert(before, y_t)",
        "list",
        "empty = SequenceEmpty<dtype = 1>()",
        "y = ConcatFromSequence<axis = 1, new_axis = 1>(list)",
    ),
    "joined to what grows": carried(
        f"float[{b},q,{D}]",
        "row = Unsqueeze(y_t, one) after = Concat<axis = 1>(before, row)",
        "joined",
        "empty = Identity(none)",
        "y = Identity(joined)",
    ),
    "counted along": counted(),
    "always on": scanned(going="go_out = Identity(go)"),
    "a hidden squeeze": scanned(
        read=READ.replace(
            "y_t = Squeeze(m, last)",
            """shape = Shape(m) end = Gather(shape, last) is1 = Equal(end, one) is = Squeeze(is1)
            y_t = If(is)<then_branch = yes () => (float[p,q] yy) { yy = Squeeze(m, last) },
              else_branch = no () => (float[p,q,r] nn) { nn = Identity(m) }>""",
        )
    ),
}


def model_of(lines: str, **more: object) -> ir.Model:
    words = set(lines.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return Spelled(lines=lines, constants={k: v for k, v in CONSTANTS.items() if k in words}, **more).model()


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_loop_is_raised_and_gives_the_same(name: str) -> None:
    model = model_of(SPELLINGS[name])
    made = raised(model)
    assert sum(map(is_selective_scan, made.graph)) == 1, Canonicalize().apply(model).refusals
    assert "Loop" not in operators(made)
    assert apart(run(model, feed())[0], expected(feed())) < 1e-5
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6


def test_a_loop_that_reads_from_the_last_token_on() -> None:
    step = "at = Sub(top, i) " + STEP.replace("(a, i)", "(a, at)").replace("(f, i)", "(f, at)")
    model = model_of(scanned(step, READ.replace("(C, i)", "(C, at)")))
    made = raised(model)
    assert sum(map(is_selective_scan, made.graph)) == 1
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6


REFUSED = {
    "the loop may stop before its last step": scanned(going="go_out = Less(i, top)"),
    "a step of the loop uses its own number otherwise than to pick a token": scanned(
        STEP.replace("k = Mul(a_t, h)", "fi = Cast<to = 1>(i) ah = Mul(a_t, fi) k = Mul(ah, h)")
    ),
    "the loop carries no state": f"""{BULK} ys = Loop<body = step ({CARRY[:-2]}) => (bool go_out, float[{b},{D}] y_t)
      {{ {ON} y_t = Gather<axis = 1>(u, i) }}>(steps, go) y = Transpose<perm = [1, 0, 2]>(ys)""",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_loop_that_is_no_scan_over_tokens_stays_and_is_said(reason: str) -> None:
    model = model_of(REFUSED[reason])
    made = model.clone()
    (refusal,) = Canonicalize().apply(made).refusals
    assert refusal.reason == reason
    assert operators(made).count("Loop") == 1
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6


def test_a_number_of_steps_that_is_decided_while_it_runs_is_refused() -> None:
    count = "big = ReduceMax<keepdims = 0>(u) whole = Cast<to = 7>(big) counted = Add(whole, steps)"
    lines = scanned(inputs="counted, go, zero").replace(BULK, f"{BULK} {count}")
    (refusal,) = Canonicalize().apply(model_of(lines)).refusals
    assert refusal.reason == "the number of steps of the loop is not known before it runs"


CUSTOM = ', "mamba_ssm": 1'
LAYOUT = """ut = Transpose<perm = [0, 2, 1]>(u) st = Transpose<perm = [0, 2, 1]>(s) Bt = Transpose<perm = [0, 2, 1]>(B)
  Ct = Transpose<perm = [0, 2, 1]>(C)"""
BACK = "y = Transpose<perm = [0, 2, 1]>(out)"


def by_operator(given: dict[str, np.ndarray], *, softplus: bool, bias: bool, skip: bool, gate: bool) -> np.ndarray:
    """What mamba_ssm documents, in NumPy."""
    from support.ssm import scanned as recurrence

    step = given["s"] + (CONSTANTS["bias"] if bias else 0)
    step = np.log1p(np.exp(step)) if softplus else step
    out = recurrence(step, given["u"], matrix(), given["B"], given["C"])
    out = out + given["u"] * CONSTANTS["skip"] if skip else out
    return out * given["u"] / (1 + np.exp(-given["u"])) if gate else out


@pytest.mark.parametrize("name", ["selective_scan", "SelectiveScan", "selective_scan_fn", "SelectiveScanFn"])
@pytest.mark.parametrize("groups", [False, True])
def test_a_custom_operator_is_expanded(name: str, groups: bool) -> None:
    four = "B4 = Unsqueeze(Bt, one) C4 = Unsqueeze(Ct, one)"
    rows = "B4, C4" if groups else "Bt, Ct"
    call = f"out = mamba_ssm.{name} <delta_softplus = 1> (ut, st, A, {rows}, skip, ut, bias)"
    made = raised(model_of(f"{LAYOUT} {four if groups else ''} {call} {BACK}", domains=CUSTOM))
    assert sum(map(is_selective_scan, made.graph)) == 1
    assert "mamba_ssm" not in made.graph.opset_imports
    wanted = by_operator(feed(), softplus=True, bias=True, skip=True, gate=True)
    assert apart(run(made, feed())[0], wanted) < 1e-5


@pytest.mark.parametrize("flag", ["skip", "gate", "bias", "softplus"])
def test_what_a_custom_operator_is_not_given_it_does_not_do(flag: str) -> None:
    parts = {"skip": "skip", "gate": "ut", "bias": "bias", "softplus": "1"} | {flag: ""}
    attribute = f"<delta_softplus = {parts['softplus'] or 0}>"
    optional = f"{parts['skip']}, {parts['gate']}, {parts['bias']}"
    call = f"out = mamba_ssm.selective_scan {attribute} (ut, st, A, Bt, Ct, {optional})"
    made = raised(model_of(f"{LAYOUT} {call} {BACK}", domains=CUSTOM))
    wanted = by_operator(feed(), **{name: bool(value) for name, value in parts.items()})
    assert apart(run(made, feed())[0], wanted) < 1e-5


@pytest.mark.parametrize("output", [0, 2])
def test_the_kernel_gives_what_is_gated_last(output: int) -> None:
    names = ["plain", "end", "gated"]
    call = "mamba_ssm.selective_scan_fwd <delta_softplus = 1> (ut, st, A, Bt, Ct, skip, ut, bias)"
    lines = f"{LAYOUT} plain, end, gated = {call}"
    made = raised(model_of(f"{lines} {BACK.replace('out', names[output])}", domains=CUSTOM))
    wanted = by_operator(feed(), softplus=True, bias=True, skip=True, gate=output == 2)
    assert apart(run(made, feed())[0], wanted) < 1e-5


REFUSED_OPERATORS = {
    "the state after the last token is read": "o, end = mamba_ssm.selective_scan(ut, st, A, Bt, Ct) y = Identity(end)",
    "B and C have 3 groups of channels, one is expected": "o = mamba_ssm.selective_scan(ut, st, A, grouped, grouped)"
    " y = Identity(o)",
    "B or C is the same for every token: not selective": "o = mamba_ssm.selective_scan(ut, st, A, A, A) "
    "y = Identity(o)",
    "MambaInnerFn fuses more than a scan, or is one of Mamba-2": "o = mamba_ssm.MambaInnerFn(ut, st) y = Identity(o)",
    "the ninth input of selective_scan is no constant, delta_softplus is expected": "z = Cast<to = 9>(u) "
    "o = mamba_ssm.selective_scan(ut, st, A, Bt, Ct, skip, ut, bias, z) y = Identity(o)",
}


@pytest.mark.parametrize("reason", REFUSED_OPERATORS)
def test_a_custom_operator_that_cannot_be_expanded_is_refused(reason: str) -> None:
    lines = f"{LAYOUT} {REFUSED_OPERATORS[reason]}"
    (refusal,) = Canonicalize().apply(model_of(lines, domains=CUSTOM)).refusals
    assert refusal.reason == reason
