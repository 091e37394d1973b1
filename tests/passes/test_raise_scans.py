"""A Scan of ONNX, whatever its body computes, becomes one selective scan that gives the same numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.ssm import BATCH, CHANNELS, STATES, TOKENS, Spelled, apart, expected, feed, operators, raised, run

from edgeprune.core.graph import static_shape
from edgeprune.core.invariants import check_invariants
from edgeprune.core.scans import is_selective_scan
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.raise_scans import RaiseScans

b, T, D, n = BATCH, TOKENS, CHANNELS, STATES
ZERO = np.zeros((b, D, n), np.float32)
AXES = {"one": np.array([1]), "two": np.array([2]), "last": np.array([-1]), "three": np.array([3])}
ALL_INSIDE = """
  l = Unsqueeze(s_t, last) e = Mul(l, A) a = Exp(e) k = Mul(a, h) du = Mul(s_t, u_t) i = Unsqueeze(du, last)
  r = Unsqueeze(B_t, one) f = Mul(i, r) h1 = Add(k, f)"""
READ = {
    "matmul": "c = Unsqueeze(C_t, last) m = MatMul(h1, c) y_t = Squeeze(m, last)",
    "row": "c = Unsqueeze(C_t, one) ht = Transpose<perm=[0, 2, 1]>(h1) m = MatMul(c, ht) y_t = Squeeze(m, one)",
    "sum": "c = Unsqueeze(C_t, one) m = Mul(h1, c) y_t = ReduceSum<keepdims=0>(m, last)",
    "sum and squeeze": "c = Unsqueeze(C_t, one) m = Mul(c, h1) q = ReduceSum(m, two) y_t = Squeeze(q, last)",
    "einsum": 'y_t = Einsum<equation="bdn,bn->bd">(h1, C_t)',
    "einsum the other way": 'y_t = Einsum<equation="zn,zdn->zd">(C_t, h1)',
}


def inside(read: str = READ["sum"], **directions: str) -> str:
    """A Scan that has all of it in its body."""
    where = ", ".join(f"{name} = {value}" for name, value in directions.items())
    return f"""last_h, y = Scan<num_scan_inputs = 4, scan_input_axes = [1, 1, 1, 1], scan_output_axes = [1],
      {where + "," if where else ""} body = token (float[{b},{D},{n}] h, float[{b},{D}] s_t, float[{b},{D}] u_t,
      float[{b},{n}] B_t, float[{b},{n}] C_t) => (float[{b},{D},{n}] h1, float[{b},{D}] y_t) {{ {ALL_INSIDE} {read} }}>
      (zero, s, u, B, C)"""


def outside(decay: str, added: str) -> str:
    """A Scan of a and b that are computed before it, [T, b, D, n], and h . C."""
    return f"""{decay} {added}
      Ct = Transpose<perm=[1, 0, 2]>(C)
      last_h, yt = Scan<num_scan_inputs = 3, body = token (float[{b},{D},{n}] h, float[{b},{D},{n}] a_t,
        float[{b},{D},{n}] f_t, float[{b},{n}] C_t) => (float[{b},{D},{n}] h1, float[{b},{D}] y_t) {{ k_t = Mul(a_t, h)
        h1 = Add(f_t, k_t) c_t = Unsqueeze(C_t, one) m_t = Mul(h1, c_t) y_t = ReduceSum<keepdims=0>(m_t, last) }}>
        (zero, at, ft, Ct)
      y = Transpose<perm=[1, 0, 2]>(yt)"""


DECAYS = {
    "unsqueezed": "s1 = Unsqueeze(s, last) e = Mul(s1, A) a = Exp(e) at = Transpose<perm=[1, 0, 2, 3]>(a)",
    "channels first": "sT = Transpose<perm=[0, 2, 1]>(s) s1 = Unsqueeze(sT, last) A1 = Unsqueeze(A, one)"
    " e = Mul(A1, s1) a = Exp(e) at = Transpose<perm=[2, 0, 1, 3]>(a)",
    "einsum": 'e = Einsum<equation="btd,dn->tbdn">(s, A) at = Exp(e)',
    "negative": "N = Neg(A) s1 = Unsqueeze(s, last) e = Mul(s1, N) m = Neg(e) a = Exp(m)"
    " at = Transpose<perm=[1, 0, 2, 3]>(a)",
    "halves": "half = Constant<value_float = 0.5>() two_f = Constant<value_float = 2.0>() A2 = Mul(A, half)"
    " s1 = Unsqueeze(s, last) s2 = Mul(s1, two_f) e = Mul(s2, A2) a = Exp(e) at = Transpose<perm=[1, 0, 2, 3]>(a)",
    "expanded": "s1 = Unsqueeze(s, last) s2 = Expand(s1, full) e = Mul(s2, A) c = Cast<to=1>(e) a = Exp(c)"
    " i = Identity(a) at = Transpose<perm=[1, 0, 2, 3]>(i)",
    "outer product": "s1 = Unsqueeze(s, last) s2 = Unsqueeze(s1, last) A1 = Unsqueeze(A, one) e = MatMul(s2, A1)"
    " e1 = Squeeze(e, three) a = Exp(e1) at = Transpose<perm=[1, 0, 2, 3]>(a)",
    "reshaped": "s1 = Reshape(s, flat) e = Mul(s1, A) a = Exp(e) w = Reshape(a, full)"
    " at = Transpose<perm=[1, 0, 2, 3]>(w)",
}
ADDED = {
    "step and B first": "s3 = Unsqueeze(s, last) B3 = Unsqueeze(B, two) sB = Mul(s3, B3) u3 = Unsqueeze(u, last)"
    " f = Mul(sB, u3) ft = Transpose<perm=[1, 0, 2, 3]>(f)",
    "step and u first": "su = Mul(u, s) s3 = Unsqueeze(su, last) B3 = Unsqueeze(B, two) f = Mul(B3, s3)"
    " ft = Transpose<perm=[1, 0, 2, 3]>(f)",
    "einsum of three": 'ft = Einsum<equation="btd,btn,btd->tbdn">(s, B, u)',
    "twice negative": "su = Mul(u, s) m = Neg(su) s3 = Unsqueeze(m, last) B3 = Unsqueeze(B, two) f = Mul(B3, s3)"
    " g = Neg(f) ft = Transpose<perm=[1, 0, 2, 3]>(g)",
}
CONSTANTS = {
    **AXES,
    "zero": ZERO,
    "full": np.array([b, T, D, n]),
    "flat": np.array([b * T, D, 1]),
}


def spelled(lines: str, **more: object) -> Spelled:
    used = {name: array for name, array in CONSTANTS.items() if name in lines.replace("(", " ").replace(",", " ")}
    return Spelled(lines=lines, constants={**used, **more.pop("constants", {})}, **more)


SPELLINGS = {
    **{f"inside, {name}": inside(read) for name, read in READ.items()},
    **{f"decay {name}": outside(decay, ADDED["step and B first"]) for name, decay in DECAYS.items()},
    **{f"added {name}": outside(DECAYS["unsqueezed"], added) for name, added in ADDED.items()},
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_scan_is_raised_and_gives_the_same(name: str) -> None:
    model = spelled(SPELLINGS[name]).model()
    made = raised(model)
    check_invariants(made, after="canonicalize")
    assert sum(map(is_selective_scan, made.graph)) == 1
    assert "Scan" not in operators(made)
    assert all(static_shape(value) is not None for node in made.graph for value in node.outputs)
    for seed in (0, 1):
        given = feed(seed)
        assert apart(run(model, given)[0], expected(given)) < 1e-5
        # Products of three factors are taken in another order: a few roundings of fp32.
        assert apart(run(made, given)[0], run(model, given)[0]) < 1e-6


def test_operands_are_what_the_model_has_without_copies_of_them() -> None:
    made = raised(spelled(inside()).model())
    assert operators(made) == ["Mul", "SelectiveScan"]
    (node,) = [one for one in made.graph if is_selective_scan(one)]
    step, fed, matrix, rows, columns = node.inputs
    assert [value.name for value in (step, matrix, rows, columns)] == ["s", "A", "B", "C"]
    assert {value.name for value in fed.producer().inputs} == {"s", "u"}


@pytest.mark.parametrize("out", [0, 1])
def test_a_scan_from_the_last_token_flips_operands_and_result(out: int) -> None:
    lines = inside(scan_input_directions="[1, 1, 1, 1]", scan_output_directions=f"[{out}]")
    model = spelled(lines).model()
    made = raised(model)
    assert sum(map(is_selective_scan, made.graph)) == 1
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6
    flips = [node for node in made.graph if node.op_type == "Slice"]
    assert len(flips) == 4 + out  # step, input, B and C; the result where it is collected from the first token on
    assert {int(node.inputs[2].const_value.numpy()[0]) for node in flips} == {-(1 << 63)}


def test_what_else_the_body_gives_for_a_token_is_computed_for_all() -> None:
    gated = READ["sum"].replace("y_t =", "z_t =") + " g = Sigmoid(u_t) w = Add(z_t, u_t) y_t = Mul(w, g)"
    model = spelled(inside(gated)).model()
    made = raised(model)
    assert set(operators(made)) == {"Add", "Mul", "SelectiveScan", "Sigmoid", "Transpose"}
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6


def test_states_that_are_collected_and_multiplied_by_c_behind_are_raised_too() -> None:
    lines = inside("c = Identity(C_t) y_t = Identity(h1)").replace(f"float[{b},{D}] y_t)", f"float[{b},{D},{n}] y_t)")
    lines = (
        lines.replace(", y = Scan", ", hs = Scan") + "c4 = Unsqueeze(C, last) m4 = MatMul(hs, c4) y = Squeeze(m4, last)"
    )
    model = spelled(lines).model()
    made = raised(model)
    assert operators(made) == ["Mul", "SelectiveScan"]
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6


def test_a_second_run_changes_nothing() -> None:
    made = raised(spelled(inside()).model())
    before = [node.name for node in made.graph]
    assert RaiseScans().apply(made).changes == 0
    assert [node.name for node in made.graph] == before


def test_a_raised_graph_is_raised_again_from_its_file() -> None:
    made = raised(spelled(inside()).model())
    again = raised(ir.from_proto(ir.to_proto(made)))
    assert operators(again) == operators(made)
    assert apart(run(again, feed())[0], expected(feed())) < 1e-5


def replaced(lines: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in lines, old
        lines = lines.replace(old, new)
    return lines


EXPONENTIAL = "a = Exp(e)"
DECAYED_TOO = """l = Unsqueeze(s_t, last) e = Mul(l, A) a = Exp(e) du = Mul(s_t, u_t) i = Unsqueeze(du, last)
  r = Unsqueeze(B_t, one) f = Mul(i, r) hf = Add(h, f) h1 = Mul(a, hf)"""
REFUSED = {
    "the first state is not zero": (inside(), {"zero": np.ones((b, D, n), np.float32)}),
    "the decay is no exponential of a step times a constant": (replaced(inside(), (EXPONENTIAL, "a = Sigmoid(e)")), {}),
    "the state does not decay: linear attention, no selective scan": (
        replaced(inside(), ("k = Mul(a, h)", "k = Identity(h)")),
        {},
    ),
    "the decay is the same for every token: linear attention, no selective scan": (
        replaced(inside(), ("e = Mul(l, A)", "e = Identity(A)")),
        {},
    ),
    "the decay is the same for all states of a channel: Mamba-2 (SSD) or linear attention": (
        replaced(inside(), ("e = Mul(l, A)", "e = Mul(l, head)")),
        {"head": -np.ones((D, 1), np.float32)},
    ),
    "the step differs among the states of a channel": (
        replaced(inside(), ("e = Mul(l, A)", "q = Unsqueeze(B_t, one) w = Mul(l, q) e = Mul(w, A)")),
        {},
    ),
    "the state goes through Tanh: the recurrence is not linear by channel": (
        replaced(inside(), ("k = Mul(a, h)", "th = Tanh(h) k = Mul(a, th)")),
        {},
    ),
    "what is added to the state decays in the same step": (inside().replace(ALL_INSIDE, DECAYED_TOO), {}),
    "the states are read by Relu, not by a product with C that is summed": (
        inside("v = Relu(h1) c = Unsqueeze(C_t, one) m = Mul(v, c) y_t = ReduceSum<keepdims=0>(m, last)"),
        {},
    ),
    "B or C differs by channel, or cannot be told from the input": (
        replaced(inside(), ("f = Mul(i, r)", "g = Mul(i, r) f = Tanh(g)")),
        {},
    ),
    "the Scan has 2 states, a selective scan has one": (
        f"""last_h, last_g, y = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
        body = token (float[{b},{D}] h, float[{b},{D}] g, float[{b},{D}] u_t)
        => (float[{b},{D}] h1, float[{b},{D}] g1, float[{b},{D}] y_t)
        {{ h1 = Add(h, u_t) g1 = Add(g, h1) y_t = Identity(g1) }}> (zero2, zero2, u)""",
        {"zero2": np.zeros((b, D), np.float32)},
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_selective_scan_stays_and_is_said(reason: str) -> None:
    lines, constants = REFUSED[reason]
    model = spelled(lines, constants=constants).model()
    made = model.clone()
    (refusal,) = Canonicalize().apply(made).refusals
    assert refusal.reason == reason
    assert refusal.code.value == "not-a-selective-scan"
    assert operators(made).count("Scan") == 1
    assert not any(map(is_selective_scan, made.graph))
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6


def test_a_state_that_is_read_after_the_last_token_is_refused() -> None:
    lines = inside().replace("last_h, y =", "kept, y =")
    model = spelled(lines, outputs=f"float[{b},{T},{D}] y, float[{b},{D},{n}] kept").model()
    (refusal,) = Canonicalize().apply(model).refusals
    assert refusal.reason == "the state after the last token is read"


def test_refused_and_raised_scans_stand_side_by_side() -> None:
    second = inside().replace("last_h, y =", "other_h, y2 =").replace(EXPONENTIAL, "a = Sigmoid(e)")
    model = spelled(f"{inside().replace(', y =', ', y1 =')} {second} y = Add(y1, y2)").model()
    made = raised(model)
    assert sorted(operators(made)) == ["Add", "Mul", "Scan", "SelectiveScan"]
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6


def log_depth() -> str:
    """Hillis and Steele: every token takes in the one 1, 2, 4 before it; no token follows another."""
    lines = f"{DECAYS['unsqueezed']} {ADDED['step and B first']}"
    decay, added = "at", "ft"
    for i in (1, 2, 4):
        lines += f"""
          pa{i} = Pad({decay}, pad{i}, f1) pf{i} = Pad({added}, pad{i}, f0) sa{i} = Slice(pa{i}, from0, to{T}, axis0)
          sf{i} = Slice(pf{i}, from0, to{T}, axis0) ga{i} = Mul({decay}, sf{i}) nf{i} = Add({added}, ga{i})
          na{i} = Mul({decay}, sa{i})"""
        decay, added = f"na{i}", f"nf{i}"
    read = f"c4 = Unsqueeze(Ct, last) m4 = MatMul({added}, c4) ys = Squeeze(m4, three)"
    return f"{lines} Ct = Transpose<perm=[1, 0, 2]>(C) {read} y = Transpose<perm=[1, 0, 2]>(ys)"


def test_a_parallel_scan_is_refused_by_name() -> None:
    numbers = {f"to{T}": np.array([T]), "from0": np.array([0]), "axis0": np.array([0])}
    pads = {f"pad{i}": np.array([i, *[0] * 7]) for i in (1, 2, 4)}
    fills = {"f0": np.array(0, np.float32), "f1": np.array(1, np.float32)}
    model = spelled(log_depth(), constants={**numbers, **pads, **fills}).model()
    assert apart(run(model, feed())[0], expected(feed())) < 1e-5
    (refusal,) = Canonicalize().apply(model).refusals
    assert refusal.reason == (
        "the decay of a selective scan stands here, and no recurrence reads it one token after the other: a parallel "
        "(associative, log-depth) scan is not raised, export the sequential form"
    )


def test_a_scan_in_chunks_is_refused_by_name() -> None:
    lines = "sums = CumSum(s, token_axis) low = Sub(sums, s) near = Exp(low) y = Mul(near, u)"
    (refusal,) = Canonicalize().apply(spelled(lines, constants={"token_axis": np.array(1)}).model()).refusals
    assert (
        refusal.reason == "sums of steps over tokens are exponentiated: a scan in chunks (Mamba-2, SSD) is not raised"
    )


def test_a_scan_that_the_exporter_lost_is_told() -> None:
    """Tracing mambapy with its parallel scan leaves the states of single tokens, and no decay."""
    lines = (
        f"{ADDED['step and B first']} Ct = Transpose<perm=[1, 0, 2]>(C) c4 = Unsqueeze(Ct, last) m4 = MatMul(ft, c4)"
    )
    lines += " ys = Squeeze(m4, three) y = Transpose<perm=[1, 0, 2]>(ys)"
    (refusal,) = Canonicalize().apply(spelled(lines).model()).refusals
    assert refusal.reason == (
        "what stands in for states is made of single tokens, and none is passed on: the exporter lost the recurrence, "
        "as tracing does that of a scan with a backward pass of its own; export the sequential form"
    )


def test_networks_without_a_scan_are_refused_nothing() -> None:
    lines = "e = Exp(s) q = Mul(e, u) p = CumSum(q, token_axis) y = Softmax(p)"
    assert not Canonicalize().apply(spelled(lines, constants={"token_axis": np.array(1)}).model()).refusals
