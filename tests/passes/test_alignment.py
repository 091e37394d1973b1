"""Hidden-state alignment on single scans, against the recurrence itself with the removed tokens' input taken away."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeprune.core.graph import constant_of
from edgeprune.core.scans import Scan, carry_function, selective_scan
from edgeprune.core.tape import Tape, add_initializer
from edgeprune_calibration.runner import Runner
from edgeprune_passes._alignment import cut_scan, gaps, mode_of, spans, stretched

TOKENS, CHANNELS, STATES = 23, 6, 4
Arrays = dict[str, np.ndarray]


def operands(batch: int, seed: int = 0) -> Arrays:
    """Of a scan whose state reaches far: a decay of 0.9 and less from token to token."""
    rng = np.random.default_rng(seed)
    wide, narrow = (batch, TOKENS, CHANNELS), (batch, TOKENS, STATES)
    return {
        "step": rng.uniform(0.01, 0.3, wide).astype(np.float32),
        "input": rng.standard_normal(wide).astype(np.float32),
        "A": -rng.uniform(0.5, 3.0, (CHANNELS, STATES)).astype(np.float32),
        "B": rng.standard_normal(narrow).astype(np.float32),
        "C": rng.standard_normal(narrow).astype(np.float32),
    }


def recurrence(values: Arrays) -> np.ndarray:
    """y [B,T,D] in float64, a step at a time."""
    step, given, A, B, C = (values[name].astype(np.float64) for name in ("step", "input", "A", "B", "C"))
    state, outputs = np.zeros((len(step), *A.shape)), []
    for t in range(step.shape[1]):
        state = np.exp(step[:, t, :, None] * A) * state + given[:, t, :, None] * B[:, t, None]
        outputs.append((state * C[:, t, None]).sum(-1))
    return np.stack(outputs, 1)


def model_of(values: Arrays, *, flipped: bool, bias: np.ndarray | None = None) -> tuple[ir.Model, Scan]:
    """One scan whose operands are inputs."""
    inputs = [
        ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT))
        for name, array in values.items()
    ]
    node = selective_scan(inputs, name="y")
    graph = ir.Graph(inputs, list(node.outputs), nodes=[node], opset_imports={"": 17})
    model = ir.Model(graph, ir_version=10)
    carry_function(model)
    known = add_initializer(model, bias, "bias") if bias is not None else None
    return model, Scan(node=node, output=node.outputs[0], flipped=flipped, bias=known)


def kept_of(batch: int, count: int, seed: int = 1) -> np.ndarray:
    """Ascending, others for each sample."""
    rng = np.random.default_rng(seed)
    return np.stack([np.sort(rng.choice(TOKENS, count, replace=False)) for _ in range(batch)])


def taken(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, index[..., None], 1)


def turned(values: Arrays) -> Arrays:
    """The operands of the same tokens in the other order."""
    return {name: array if name == "A" else np.ascontiguousarray(array[:, ::-1]) for name, array in values.items()}


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("flipped", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_scan_over_kept_tokens_is_the_whole_one_without_the_input_of_the_others(batch: int, flipped: bool) -> None:
    values, kept = operands(batch), kept_of(batch, 9)
    model, scan = model_of(turned(values) if flipped else values, flipped=flipped)
    tape = Tape(model, before=scan.node, prefix="test")
    cut_scan(tape, scan, tape.constant(kept.astype(np.int64)), TOKENS)
    found = Runner(model, threads=1).run(turned(values) if flipped else values)["y"]

    there = np.zeros((batch, TOKENS, 1))
    np.put_along_axis(there, kept[..., None], 1.0, 1)
    masked = {**values, "input": values["input"] * there}
    wanted = recurrence(turned(masked))[:, ::-1] if flipped else recurrence(masked)
    found = found[:, ::-1] if flipped else found
    assert found.shape == (batch, 9, CHANNELS)
    assert relative(found, taken(wanted, kept)) < 1e-5  # fp32 against fp64
    naive = {name: array if name == "A" else taken(array, kept) for name, array in values.items()}
    compacted = recurrence(turned(naive))[:, ::-1] if flipped else recurrence(naive)
    assert relative(compacted, taken(wanted, kept)) > 1e-2  # what it would be without alignment


@pytest.mark.parametrize("flipped", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("mode", ["gap", "bias"])
def test_a_later_scan_decays_by_the_gap(mode: str, flipped: bool) -> None:
    batch, values = 3, operands(3)
    bias = np.linspace(-2, 1, CHANNELS).astype(np.float32)
    model, scan = model_of(values, flipped=flipped, bias=bias)
    positions = np.cumsum(np.random.default_rng(2).integers(1, 5, (batch, TOKENS)), 1)
    tape = Tape(model, before=scan.node, prefix="test")
    gap = gaps(tape, tape.constant(positions), flipped=flipped)
    scan.node.replace_input_with(0, stretched(tape, scan, gap, mode_of(scan, mode)))
    found = Runner(model, threads=1).run(values)["y"]

    row = positions.max() - positions[:, ::-1] if flipped else positions
    apart = np.concatenate([np.ones((batch, 1)), np.diff(row)], 1)[..., None]
    delta = values["step"]
    resting = np.log1p(np.exp(bias.astype(np.float64)))
    wanted = recurrence({**values, "step": delta * apart if mode == "gap" else delta + (apart - 1) * resting})
    assert relative(found, wanted) < 1e-5  # fp32 against fp64
    assert relative(recurrence(values), wanted) > 1e-2


def test_without_a_bias_the_step_of_a_resting_token_is_not_known() -> None:
    values = operands(1)
    for bias in (None, np.zeros(CHANNELS + 1, np.float32)):
        _, scan = model_of(values, flipped=False, bias=bias)
        assert mode_of(scan, "bias") == "gap"
    _, scan = model_of(values, flipped=False, bias=np.zeros(CHANNELS, np.float32))
    assert mode_of(scan, "bias") == "bias"
    assert mode_of(scan, "none") == "none"


@pytest.mark.parametrize("kept", [(0, 1, 2), (4, 9, 22), (22,), tuple(range(TOKENS))], ids=str)
def test_the_span_of_a_kept_token_begins_behind_the_one_before(kept: tuple[int, ...]) -> None:
    model, scan = model_of(operands(1), flipped=False)
    tape = Tape(model, before=scan.node, prefix="test")
    model.graph.outputs[0] = spans(tape, tape.constant(np.array([kept], np.int64)), TOKENS)
    model.graph.outputs[0].name = "spans"
    (found,) = Runner(model, threads=1).run(operands(1))["spans"]
    starts = (-1, *kept[:-1])
    wanted = [[float(before < t <= own) for t in range(TOKENS)] for before, own in zip(starts, kept, strict=True)]
    np.testing.assert_array_equal(found, wanted)


def test_one_token_that_is_left_has_a_gap_of_one() -> None:
    model, scan = model_of(operands(1), flipped=True)
    tape = Tape(model, before=scan.node, prefix="test")
    gap = gaps(tape, tape.constant(np.array([[7]], np.int64)), flipped=True)
    assert tape.shape(gap) == (1, 1, 1)
    np.testing.assert_array_equal(constant_of(gap), [[[1.0]]])


def test_adding_steps_up_keeps_digits_that_a_running_sum_loses() -> None:
    rng = np.random.default_rng(3)
    step = rng.uniform(0.0005, 0.3, 1025).astype(np.float32)
    kept = np.sort(rng.choice(1025, 700, replace=False))
    starts = np.concatenate([[-1], kept[:-1]])
    exact = np.array([step[a + 1 : b + 1].astype(np.float64).sum() for a, b in zip(starts, kept, strict=True)])
    rows = (np.arange(1025) > starts[:, None]) & (np.arange(1025) <= kept[:, None])
    running = np.diff(np.cumsum(step)[kept], prepend=np.float32(0))
    error = [np.abs(found / exact - 1).max() for found in (rows.astype(np.float32) @ step, running)]
    assert error[0] < 1e-6
    assert error[1] > 1e-3
