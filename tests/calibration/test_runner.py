from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeprune.core.errors import DataError, ModelError
from edgeprune_calibration import runner as runner_module
from edgeprune_calibration.data import TensorSpec
from edgeprune_calibration.runner import Runner

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[B,4] x, int64[B] n) => (float[B,4] sum, float[B,4] twice)
<float[4] w = {1, 2, 3, 4}> { sum = Add(x, w)  c = Cast<to=1>(n)  twice = Add(sum, sum) }
"""
FEED = {"x": np.ones((2, 4), np.float32), "n": np.zeros(2, np.int64)}


@pytest.fixture
def model() -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT)


def test_every_form_of_a_model_runs_alike(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    for form in (model, ir.from_proto(model), path, str(path), model.SerializeToString()):
        runner = Runner(form, threads=1)
        got = runner.run(FEED)
        assert list(got) == ["sum", "twice"]
        np.testing.assert_array_equal(got["twice"], [[4, 6, 8, 10]] * 2)
        assert runner.inputs == (TensorSpec("x", (None, 4)), TensorSpec("n", (None,), "int64"))
        assert runner.outputs[0] == TensorSpec("sum", (None, 4))


def test_large_weights_go_through_a_file_and_the_model_stays_whole(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_INLINE_BYTES", 1)
    graph = ir.from_proto(model)
    before = ir.to_proto(graph).SerializeToString()
    np.testing.assert_array_equal(Runner(graph).run(FEED)["sum"], [[2, 3, 4, 5]] * 2)
    np.testing.assert_array_equal(Runner(model).run(FEED)["sum"], [[2, 3, 4, 5]] * 2)
    assert ir.to_proto(graph).SerializeToString() == before


def test_outputs_are_chosen_and_feeds_without_an_input_left_out(model: onnx.ModelProto) -> None:
    got = Runner(model, optimise=False).run({**FEED, "unused": np.zeros(1)}, outputs=["twice"])
    assert list(got) == ["twice"]


def test_feeds_that_do_not_fit_are_refused(model: onnx.ModelProto) -> None:
    runner = Runner(model)
    with pytest.raises(DataError, match="input `n` is not fed, the data has x"):
        runner.run({"x": FEED["x"]})
    with pytest.raises(DataError, match=r"input is fed x float32 2x5, expected x float32 \?x4"):
        runner.run({**FEED, "x": np.ones((2, 5), np.float32)})
    with pytest.raises(DataError, match=r"input is fed x float64 2x4, expected x float32 \?x4"):
        runner.run({**FEED, "x": np.ones((2, 4))})
    with pytest.raises(ModelError, match="the model has no output `logits`, it has sum, twice"):
        runner.run(FEED, outputs=["logits"])


def test_what_the_runtime_refuses_is_one_line(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no model")
    model.graph.node[0].op_type = "NoSuchOperator"
    for form, start in ((path, f"ONNX Runtime cannot load {path}: "), (model, "ONNX Runtime cannot load the model: ")):
        with pytest.raises(ModelError) as caught:
            Runner(form)
        assert caught.value.message.startswith(start)
        assert "\n" not in caught.value.message
        assert "ONNXRuntimeError" not in caught.value.message


def test_what_fails_at_run_time_is_one_line() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N] x, float[M] y) => (float[K] z) { z = Add(x, y) }
    """
    with pytest.raises(ModelError, match=r"ONNX Runtime fails to run the model: .*Add") as caught:
        Runner(onnx.parser.parse_model(text)).run({"x": np.ones(2, np.float32), "y": np.ones(3, np.float32)})
    assert "\n" not in caught.value.message
