"""Engines held against ONNX Runtime, and the way back to unfused attention where the fused one is wrong.

Engines are built for real; none can run here, so what runs them is a stand-in that is wrong where attention is fused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeprune.core.errors import DataError, TargetError
from edgeprune_targets.attentions import count_attentions
from edgeprune_targets.builders.checking import (
    CheckedBuilder,
    Trial,
    check_engine,
    compare,
    reference_outputs,
    tolerance_of,
    yardstick,
)
from edgeprune_targets.builders.manifest import read_manifest
from edgeprune_targets.builders.onnx_runtime import OrtBuilder
from edgeprune_targets.builders.runner import open_engine
from edgeprune_targets.builders.tensorrt_rtx import RtxBuilder
from edgeprune_targets.lowering import lower
from edgeprune_targets.profiles import load_target
from edgeprune_targets.runtimes import runtime_for

RTX = load_target("rtx-3090")


class Told:
    """Runs what it is told: the references, with an error added."""

    def __init__(self, trial: Trial, error: float) -> None:
        self._answers = iter(reference_outputs(trial))
        self._error = error
        self.closed = False

    def run(self, _feeds: Any) -> dict[str, np.ndarray]:
        noise = np.random.default_rng(0)
        return {
            name: value + self._error * np.abs(value).mean() * noise.standard_normal(value.shape).astype(value.dtype)
            for name, value in next(self._answers).items()
        }

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def graphs(make_encoder: Callable[..., ir.Model]) -> dict[bool, bytes]:
    """One model lowered with attention fused, and without."""
    model = make_encoder(blocks=2)
    runtime = runtime_for(RTX, None, "tensorrt-rtx")
    return {
        fused: ir.to_proto(lower(model, runtime, RTX, "fp16", fused_attention=fused).model).SerializeToString()
        for fused in (True, False)
    }


@pytest.fixture
def trial(graphs: dict[bool, bytes]) -> Trial:
    random = np.random.default_rng(1)
    feeds = [{"x": random.normal(size=(1, 17, 32)).astype(np.float32)} for _ in range(3)]
    return Trial(feeds=feeds, reference=graphs[True])


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("wrong_fused", "wrong_unfused", "built", "unfused"),
    [(False, True, True, False), (True, False, True, True), (True, True, False, True)],
)
def test_wrong_fused_attention_is_built_unfused(
    graphs: dict[bool, bytes],
    trial: Trial,
    tmp_path: Path,
    wrong_fused: bool,
    wrong_unfused: bool,
    built: bool,
    unfused: bool,
) -> None:
    opened: list[Told] = []

    def opens(path: Path) -> Told:
        fused = bool(read_manifest(path).fused_attentions)
        opened.append(Told(trial, 0.3 if (wrong_fused if fused else wrong_unfused) else 1e-4))
        return opened[-1]

    builder = CheckedBuilder(builder=RtxBuilder(), trial=trial, relower=lambda: graphs[False], opens=opens)
    result = builder.build(
        graphs[True], RTX, tmp_path, name="m", attentions=count_attentions(ir.from_proto(_proto(graphs[True])))
    )
    assert (result.built, result.attention_unfused) == (built, unfused)
    assert result.check is not None
    assert result.check.passed is built
    assert (result.attentions, result.fused_attentions) == (2, 0 if unfused else 2)
    assert len(opened) == 1 + unfused
    assert all(each.closed for each in opened)
    assert {path.name for path in tmp_path.iterdir()} == ({"m.sm86.engine", "m.sm86.engine.json"} if built else set())
    if not built:
        assert result.path is None
        assert result.error is not None
        assert result.error.startswith("its outputs differ from ONNX Runtime's by a relative error of 0.19, ")
        assert result.error.endswith(
            "expected at most about 0.02, with attention fused and unfused: "
            "try another precision, or another version than TensorRT-RTX 1.7.1"
        )


def _proto(data: bytes) -> Any:
    import onnx

    return onnx.ModelProto.FromString(data)


@pytest.mark.usefixtures("rtx")
def test_where_no_device_is_the_engine_stays_unchecked(graphs: dict[bool, bytes], trial: Trial, tmp_path: Path) -> None:
    def opens(_path: Path) -> Any:
        msg = "no NVIDIA device here"
        raise TargetError(msg)

    result = CheckedBuilder(builder=RtxBuilder(), trial=trial, opens=opens).build(graphs[True], RTX, tmp_path, name="m")
    assert (result.built, result.check) == (True, None)


@pytest.mark.usefixtures("rtx")
def test_an_engine_that_does_not_run_is_none(graphs: dict[bool, bytes], trial: Trial, tmp_path: Path) -> None:
    class Fails(Told):
        def run(self, _feeds: Any) -> dict[str, np.ndarray]:
            msg = "the NVIDIA driver fails in cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"
            raise TargetError(msg)

    builder = CheckedBuilder(builder=RtxBuilder(), trial=trial, opens=lambda _: Fails(trial, 0))
    result = builder.build(graphs[True], RTX, tmp_path, name="m")
    assert (result.built, result.path, result.check) == (False, None, None)
    assert result.error == (
        "it does not run here: the NVIDIA driver fails in cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"
    )
    assert list(tmp_path.iterdir()) == []


def test_without_a_reference_the_engine_stays_unchecked(
    graphs: dict[bool, bytes], trial: Trial, tmp_path: Path
) -> None:
    builder = CheckedBuilder(builder=OrtBuilder(), trial=Trial(feeds=trial.feeds, reference=b"no onnx"))
    result = builder.build(graphs[True], RTX, tmp_path, name="m")
    assert (result.built, result.check) == (True, None)


def test_a_real_engine_of_onnxruntime_passes_its_check(graphs: dict[bool, bytes], trial: Trial, tmp_path: Path) -> None:
    result = CheckedBuilder(builder=OrtBuilder(), trial=trial).build(graphs[True], RTX, tmp_path, name="m")
    assert result.check is not None
    assert result.check.passed
    assert (result.check.samples, result.error) == (3, None)
    assert result.check.relative_error < 0.01  # fp16's rounding, some of it fused away
    with open_engine(Path(str(result.path))) as runner:
        other = Trial(feeds=trial.feeds, reference=[{"y": -each["y"]} for each in reference_outputs(trial)])
        check = check_engine(runner, other)
    assert not check.passed
    assert check.cosine < -0.9


def test_a_check_needs_a_sample_and_a_reference_for_each(trial: Trial) -> None:
    none = Trial(feeds=[], reference=trial.reference)
    with pytest.raises(DataError, match="on no sample"):
        reference_outputs(none)
    with pytest.raises(DataError, match="on 3 samples with 1 references"):
        reference_outputs(Trial(feeds=trial.feeds, reference=[{}]))


def _pairs(*values: list[float]) -> list[dict[str, np.ndarray]]:
    return [{"y": np.array(value, np.float32)} for value in values]


def test_differences_are_relative_and_infinite_where_one_is_not_finite() -> None:
    nan, inf = float("nan"), float("inf")
    errors, cosines = compare(
        _pairs([3, 4.5], [nan, 1], [inf, 1], [0, 0], [1, 0], [0, 0]),
        _pairs([3, 4], [1, 1], [inf, 1], [0, 0], [0, 0], [1, 0]),
    )
    assert errors == [0.1, inf, 0.0, 0.0, inf, inf]
    assert cosines == pytest.approx([0.99846, -1.0, 1.0, 1.0, -1.0, -1.0], abs=1e-4)


@pytest.mark.parametrize(
    ("errors", "passed"),
    [
        ([0.01, 0.01, 0.15], True),  # a near tie fell the other way in one sample
        ([0.01, 0.01, 0.25], False),  # no tie does that
        ([0.03, 0.03, 0.0], False),
    ],
)
def test_the_median_decides_and_the_worst_is_bounded(errors: list[float], passed: bool) -> None:
    wanted = _pairs(*[[1.0, 0.0]] * 3)
    trial = Trial(feeds=wanted, reference=wanted)

    class Off:
        def __init__(self) -> None:
            self._errors = iter(errors)

        def run(self, feeds: Any) -> dict[str, np.ndarray]:
            return {"y": feeds["y"] * np.float32(1 + next(self._errors))}

        def close(self) -> None:
            """Nothing to free."""

    assert check_engine(Off(), trial).passed is passed


def test_a_yardstick_widens_the_tolerance_and_never_narrows_it() -> None:
    typed, exact = _pairs([1.1], [1.2], [9.0]), _pairs([1.0], [1.0], [1.0])
    assert yardstick(typed, exact) == pytest.approx(0.2, rel=1e-5)
    wanted = _pairs([1.0])
    assert tolerance_of(Trial(feeds=wanted, reference=wanted, yardstick=0.2)) == pytest.approx(0.8)
    assert tolerance_of(Trial(feeds=wanted, reference=wanted, yardstick=1e-6)) == 0.02
    assert tolerance_of(Trial(feeds=wanted, reference=wanted, precision="bf16")) == 0.16
