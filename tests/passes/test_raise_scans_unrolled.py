"""A recurrence that a tracer wrote token after token is rolled up, raised, and gives the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from support.ssm import BATCH, CHANNELS, STATES, TOKENS, Spelled, apart, expected, feed, operators, raised, run

from edgeprune.core.scans import is_selective_scan
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.scans.unrolled import roll_up

b, T, D, n = BATCH, TOKENS, CHANNELS, STATES
BULK = """s1 = Unsqueeze(s, last) e = Mul(s1, A) a = Exp(e) su = Mul(s, u) s3 = Unsqueeze(su, last)
  B3 = Unsqueeze(B, two) f = Mul(s3, B3)"""
STEPS = range(T)


def select(name: str, source: str, t: int, axis: int = 1) -> str:
    return f"{name}_{t} = Gather<axis = {axis}>({source}, at{t}) "


def slice_of(name: str, source: str, t: int) -> str:
    return f"{name}s_{t} = Slice({source}, at1_{t}, at1_{t + 1}, one, one) {name}_{t} = Squeeze({name}s_{t}, one) "


def pick(name: str, source: str, t: int) -> str:
    return f"{name}s_{t} = Gather<axis = 1>({source}, at1_{t}) {name}_{t} = Squeeze({name}s_{t}, one) "


def part(name: str, source: str, t: int) -> str:
    whole = (
        f"{', '.join(f'{name}p_{i}' for i in STEPS)} = Split<axis = 1>({source}, ones) " if t == first_of(name) else ""
    )
    return f"{whole}{name}_{t} = Squeeze({name}p_{t}, one) "


def element(name: str, source: str, t: int) -> str:
    whole = f"{name}q = SplitToSequence<axis = 1, keepdims = 0>({source}) " if t == first_of(name) else ""
    return f"{whole}{name}_{t} = SequenceAt({name}q, at{t}) "


def first_of(name: str) -> int:
    return 0 if name else 1


READERS = {"select": select, "slice": slice_of, "pick": pick, "split": part, "sequence": element}


def body(t: int, before: str, read=select) -> str:
    step = read("a", "a", t) + read("f", "f", t)
    return f"{step} k_{t} = Mul(a_{t}, {before}) h_{t} = Add(k_{t}, f_{t}) "


def readout(t: int, read=select) -> str:
    column = f"{read('c', 'C', t)} cc_{t} = Unsqueeze(c_{t}, last)"
    return f"{column} m_{t} = MatMul(h_{t}, cc_{t}) y_{t} = Squeeze(m_{t}, last) "


def stacked(order=STEPS, axis: str = "one") -> str:
    rows = "".join(f"r_{t} = Unsqueeze(y_{t}, {axis}) " for t in STEPS)
    return f"{rows} y = Concat<axis = 1>({', '.join(f'r_{t}' for t in order)})"


def loop(order=STEPS, read=select, first: str = "zero") -> str:
    before, lines = first, BULK
    for t in order:
        lines += body(t, before, read) + readout(t, read)
        before = f"h_{t}"
    return lines


def from_first_input() -> str:
    """h_0 = b_0: the first step multiplies nothing."""
    lines = BULK + select("f", "f", 0) + "h_0 = Identity(f_0) " + readout(0)
    for t in STEPS[1:]:
        lines += body(t, "f_0" if t == 1 else f"h_{t - 1}") + readout(t)
    return lines.replace("h_0 = Identity(f_0) ", "").replace("MatMul(h_0,", "MatMul(f_0,") + stacked()


def all_in_the_step() -> str:
    lines, before = "", "zero"
    for t in STEPS:
        lines += "".join(select(name, name, t) for name in "suBC")
        lines += f"""l_{t} = Unsqueeze(s_{t}, last) e_{t} = Mul(l_{t}, A) a_{t} = Exp(e_{t}) su_{t} = Mul(s_{t}, u_{t})
          i_{t} = Unsqueeze(su_{t}, last) w_{t} = Unsqueeze(B_{t}, one) f_{t} = Mul(i_{t}, w_{t})
          k_{t} = Mul({before}, a_{t}) h_{t} = Add(f_{t}, k_{t}) d_{t} = Unsqueeze(C_{t}, one)
          m_{t} = Mul(h_{t}, d_{t}) y_{t} = ReduceSum<keepdims = 0>(m_{t}, last) """
        before = f"h_{t}"
    return lines + stacked()


def cast_between() -> str:
    """As transformers writes it: the state is cast to what it is already."""
    lines, before = BULK, "zero"
    for t in STEPS:
        lines += body(t, before) + readout(t).replace(f"MatMul(h_{t},", f"MatMul(g_{t},")
        lines = lines.replace(f"cc_{t} =", f"g_{t} = Cast<to = 1>(h_{t}) cc_{t} =")
        before = f"g_{t}"
    return lines + stacked()


def multiplied_by_one() -> str:
    """A factor of one stands behind the product, or between its factors."""
    lines = loop()
    for t in STEPS:
        lines = lines.replace(f"h_{t} = Add(k_{t}, f_{t})", f"o_{t} = Mul(k_{t}, unit) h_{t} = Add(f_{t}, o_{t})")
    return lines + stacked()


def states_stacked() -> str:
    """As mambapy writes it: all states are stacked, and multiplied by C at once."""
    lines, before = BULK, "zero"
    for t in STEPS:
        lines += body(t, before) + f"r_{t} = Unsqueeze(h_{t}, one) "
        before = f"h_{t}"
    joined = f"hs = Concat<axis = 1>({', '.join(f'r_{t}' for t in STEPS)}) "
    return lines + joined + "c4 = Unsqueeze(C, last) m4 = MatMul(hs, c4) y = Squeeze(m4, three)"


KEPT = loop()
for t in STEPS:
    KEPT = KEPT.replace(f"Squeeze(m_{t}, last)", f"Identity(m_{t})")
SPELLINGS = {
    **{f"read by {name}": loop(read=read) + stacked() for name, read in READERS.items()},
    "joined as a list": loop()
    + f"l = SequenceConstruct({', '.join(f'y_{t}' for t in STEPS)}) y = ConcatFromSequence<axis = 1, new_axis = 1>(l)",
    "axis of tokens kept": KEPT
    + "".join(f"z_{t} = Transpose<perm = [0, 2, 1]>(y_{t}) " for t in STEPS)
    + f"y = Concat<axis = 1>({', '.join(f'z_{t}' for t in STEPS)})",
    "h_0 = b_0": from_first_input(),
    "torch.addcmul": multiplied_by_one(),
    "all in the step": all_in_the_step(),
    "cast between": cast_between(),
    "states stacked": states_stacked(),
}
CONSTANTS = {
    "zero": np.zeros((b, D, n), np.float32),
    "one": np.array([1]),
    "two": np.array([2]),
    "three": np.array([3]),
    "last": np.array([-1]),
    "unit": np.array(1, np.float32),
    "ones": np.ones(T, np.int64),
    **{f"at{t}": np.array(t) for t in STEPS},
    **{f"at1_{t}": np.array([t]) for t in range(T + 1)},
}


def model_of(lines: str, **more: object):
    words = set(lines.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return Spelled(lines=lines, constants={k: v for k, v in CONSTANTS.items() if k in words}, **more).model()


@pytest.mark.parametrize("name", SPELLINGS)
def test_an_unrolled_recurrence_is_raised_and_gives_the_same(name: str) -> None:
    model = model_of(SPELLINGS[name])
    made = raised(model)
    assert sum(map(is_selective_scan, made.graph)) == 1
    assert len(made.graph) < 12
    assert apart(run(model, feed())[0], expected(feed())) < 1e-5
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6


def test_a_recurrence_from_the_last_token_is_raised_with_flips() -> None:
    model = model_of(loop(order=STEPS[::-1]) + stacked())
    made = raised(model)
    assert sum(map(is_selective_scan, made.graph)) == 1
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6
    backwards = {name: array[:, ::-1] for name, array in feed().items()}
    assert apart(run(made, feed())[0], expected(backwards)[:, ::-1]) < 1e-5


def test_a_recurrence_over_some_of_the_tokens_in_some_order_is_one_scan_and_says_why_it_is_not_raised() -> None:
    order = [4, 0, 3, 1]
    lines = loop(order=order) + "".join(f"r_{t} = Unsqueeze(y_{t}, one) " for t in order)
    lines += f"y = Concat<axis = 1>({', '.join(f'r_{t}' for t in order)})"
    model = model_of(lines, outputs=f"float[{b},{len(order)},{D}] y")
    made = model.clone()
    (refusal,) = Canonicalize().apply(made).refusals
    assert refusal.reason == "tokens are picked or joined between the exponential of the decay and the recurrence"
    assert operators(made).count("Scan") == 1
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6


def test_the_graph_is_rolled_up_before_anything_is_folded() -> None:
    model = model_of(loop() + stacked())
    assert roll_up(model) == (1, [])
    assert operators(model).count("Scan") == 1
    assert "Gather" not in operators(model)
    assert apart(run(model, feed())[0], expected(feed())) < 1e-5


def gated_by_states() -> str:
    """A recurrence in which the decay is computed from the state: no selective scan."""
    lines, before = BULK, "zero"
    for t in STEPS:
        lines += f"g_{t} = Sigmoid({before}) " + body(t, before).replace(f"Mul(a_{t},", f"Mul(g_{t},") + readout(t)
        before = f"h_{t}"
    return lines + stacked()


ALIKE = "the steps of the unrolled recurrence are not alike"
REFUSED = {
    ALIKE: loop().replace("k_3 = Mul(a_3,", "q_3 = Tanh(a_3) k_3 = Mul(q_3,") + stacked(),
    "a step depends on the state of another step otherwise than by a product": gated_by_states(),
    "the state after one token is read more often than after others": loop().replace(
        "k_3 = Mul(a_3,", "q_3 = Mul(a_3, h_1) k_3 = Mul(q_3,"
    )
    + stacked(),
    "nothing collects the states of the unrolled recurrence": loop() + "y = Unsqueeze(y_5, one)",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_rolled_up_stays_and_is_said(reason: str) -> None:
    outputs = f"float[{b},{1 if 'nothing' in reason else T},{D}] y"
    model = model_of(REFUSED[reason], outputs=outputs)
    made = model.clone()
    refusals = Canonicalize().apply(made).refusals
    assert reason in {refusal.reason for refusal in refusals}
    assert not any(map(is_selective_scan, made.graph))
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6


@pytest.mark.parametrize(
    ("odd", "rolled"), [("alpha = 0.2>(f_3)", 0), ("alpha = 0.1>(k_2)", 0), ("alpha = 0.1>(f_2)", 1)]
)
def test_a_step_that_differs_is_not_alike_but_any_order_of_tokens_is_one(odd: str, rolled: int) -> None:
    lines = loop() + stacked()
    for t in STEPS:
        kept = f"w_{t} = LeakyRelu<alpha = 0.1>(f_{t}) h_{t} = Add(k_{t}, w_{t})"
        lines = lines.replace(f"h_{t} = Add(k_{t}, f_{t})", kept)
    assert roll_up(model_of(lines)) == (1, [])
    model = model_of(lines.replace("alpha = 0.1>(f_3)", odd))
    found, refusals = roll_up(model.clone())
    assert (found, [refusal.reason for refusal in refusals]) == (rolled, [] if rolled else [ALIKE])
    made = raised(model)
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6


def test_an_order_of_collection_that_is_not_that_of_the_steps_is_no_loop() -> None:
    swapped = [1, 0, *STEPS[2:]]
    model = model_of(loop() + stacked(swapped))
    made = raised(model)
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6


def test_layer_scale_and_gates_in_a_row_are_no_recurrence() -> None:
    lines = "x0 = Add(u, s) " + "".join(f"g{i} = Mul(x{i}, u) x{i + 1} = Add(g{i}, s) " for i in range(5))
    model = model_of(lines + "y = Identity(x5)")
    made = model.clone()
    assert not Canonicalize().apply(made).refusals
    assert apart(run(made, feed())[0], run(model, feed())[0]) < 1e-6
