"""run.py as a program: against stand-ins of tensorrt and CUDA's runtime library, since both need a device."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import make_bundle

STAND_INS = Path(__file__).parents[1] / "support" / "fake_runtime"
X = {"input": True, "type": "FLOAT", "shape": [1, 3, 4]}
Y = {"input": False, "type": "HALF", "shape": [1, 3, 4]}


@dataclass
class Board:
    folder: Path
    library: Path

    def engine(self, version: str = "10.3.0.26", scale: float = 2.0, **tensors: Any) -> None:
        plan = {"version": version, "scale": scale, "tensors": tensors or {"x": X, "y": Y}}
        (self.folder / "model.engine").write_text(json.dumps(plan))

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {"PATH": os.environ["PATH"], "PYTHONPATH": str(STAND_INS), "LD_LIBRARY_PATH": str(self.library)}
        return subprocess.run(
            [sys.executable, "run.py", *arguments],
            cwd=self.folder, env=known | environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cc"):
        pytest.skip("no C compiler for the stand-in of libcudart: install cc")
    folder = tmp_path_factory.mktemp("cudart")
    command = ["cc", "-shared", "-fPIC", "-o", folder / "libcudart.so", STAND_INS / "fake_cudart.c"]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def board(tmp_path: Path, library: Path) -> Board:
    made = Board(make_bundle(tmp_path), library)
    made.engine()
    return made


def _save(board: Board, name: str, array: Any = None, **arrays: Any) -> str:
    if array is not None:
        np.save(board.folder / name, array)
    else:
        np.savez(board.folder / name, **arrays)
    return name


@pytest.mark.parametrize("version", ["8.5.2.2", "8.6.2.3", "10.3.0.26", "11.1.0.106"])
def test_outputs_of_an_input_on_every_version(board: Board, version: str) -> None:
    board.engine(version)
    x = np.arange(12, dtype=np.float64).reshape(1, 3, 4)
    done = board.run("-i", _save(board, "x.npy", x), "-o", "out.npz", FAKE_TRT=version)
    assert done.returncode == 0, done.stderr
    with np.load(board.folder / "out.npz") as out:
        assert out["y"].dtype == np.float16
        assert (out["y"] == 2 * x).all()
    assert done.stdout == "y: float16 (1, 3, 4), 0 to 22\n"


def test_random_inputs_are_the_same_each_time(board: Board) -> None:
    board.engine(
        x=X, ids={"input": True, "type": "INT64", "shape": [1, 5]}, y=Y,
        same={"input": False, "type": "INT64", "shape": [1, 5]},
    )  # fmt: skip
    for name in ("a.npz", "b.npz"):
        assert board.run("-o", name).returncode == 0
    with np.load(board.folder / "a.npz") as one, np.load(board.folder / "b.npz") as two:
        assert (one["y"] == two["y"]).all()
        assert set(one["same"].ravel().tolist()) <= {0, 2}
        assert one["y"].std() > 0.5


def test_a_missing_batch_axis_and_many_rows(board: Board) -> None:
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    assert board.run("-i", _save(board, "x.npz", x=x), "-o", "many.npz").returncode == 0
    assert board.run("-i", _save(board, "x.npy", x[0]), "-o", "one.npz").returncode == 0
    with np.load(board.folder / "many.npz") as many, np.load(board.folder / "one.npz") as one:
        assert many["y"].shape == (5, 3, 4)
        assert (many["y"] == (2 * x.astype(np.float64)).astype(np.float16)).all()
        assert (one["y"] == many["y"][:1]).all()


def test_it_agrees_with_its_reference_or_exits_with_3(board: Board) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    reference = _save(board, "reference.npz", **{"input:x": x, "output:y": 2 * x})
    good = board.run("--compare", reference)
    assert good.returncode == 0, good.stderr
    assert "y: cosine 1.000000, relative error 0.000" in good.stdout
    assert "agrees" in good.stdout
    board.engine(scale=-2.0)
    wrong = board.run("--compare", reference)
    assert wrong.returncode == 3
    assert "y: cosine -1.000000, relative error 1.9999" in wrong.stdout
    assert "DIFFERS" in wrong.stdout
    assert board.run("--compare", reference, "--max-error", "3").returncode == 3
    board.engine(scale=2.1)
    assert board.run("--compare", reference).returncode == 0
    assert board.run("--compare", reference, "--max-error", "0.01").returncode == 3


def test_what_is_no_number_differs(board: Board) -> None:
    x = np.ones((1, 3, 4), np.float32)
    board.engine(scale=float("inf"))
    done = board.run("--compare", _save(board, "reference.npz", **{"input:x": x, "output:y": x}))
    assert done.returncode == 3
    assert "DIFFERS" in done.stdout


def test_a_reference_without_outputs_compares_nothing_and_says_so(board: Board) -> None:
    done = board.run("--compare", _save(board, "reference.npz", **{"input:x": np.ones((1, 3, 4), np.float32)}))
    assert done.returncode == 1
    assert "error: reference.npz holds no array named output:NAME" in done.stderr


def test_time_is_said_to_be_measured(board: Board) -> None:
    done = board.run("--time", "5")
    assert done.returncode == 0
    assert "measured: p50 " in done.stdout
    assert "over 5 runs, launch included" in done.stdout


def _give(**arrays: Any) -> Any:
    return lambda board: ("-i", _save(board, "given.npz", **arrays))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (_give(x=np.ones((1, 3, 5), np.float32)), "input x has shape (1, 3, 5), expected (1, 3, 4)"),
        (_give(x=np.ones((0, 3, 4), np.float32)), "input x has shape (0, 3, 4), expected (1, 3, 4)"),
        (_give(z=np.ones((1, 3, 4), np.float32)), "inputs are z, expected x"),
        (_give(x=np.ones((1, 3, 4), np.complex64)), "input x is complex64, expected float32"),
        (lambda _: ("-i", "absent.npy"), "cannot read absent.npy"),
        (lambda _: ("-i", "plan.json"), "cannot read plan.json"),
        (lambda _: ("other.engine",), "cannot read other.engine: No such file or directory"),
        (lambda _: ("-o", "absent/out.npz"), "cannot write absent/out.npz: No such file or directory"),
    ],
)
def test_what_cannot_be_read_or_written_is_named(board: Board, arguments: Any, message: str) -> None:
    done = board.run(*arguments(board))
    assert done.returncode == 1
    assert f"error: {message}" in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"FAKE_CUDA_FAIL": "cudaMalloc"}, "cudaMalloc: out of memory"),
        ({"FAKE_CUDA_FAIL": "cudaStreamCreate"}, "cudaStreamCreate: CUDA driver version is insufficient"),
        ({"FAKE_CUDA_FAIL": "cudaStreamSynchronize"}, "cudaStreamSynchronize: an illegal memory access"),
        ({"FAKE_TRT_FAIL": "run"}, "TensorRT could not run the engine"),
        ({"FAKE_TRT_FAIL": "context"}, "there is no memory to run model.engine"),
        ({"FAKE_TRT": "10.16.2.10"}, "TensorRT 10.16.2.10 does not load model.engine"),
        ({"PYTHONPATH": ""}, "tensorrt cannot be imported"),
    ],
)
def test_a_device_that_fails_is_told(board: Board, environment: dict[str, str], message: str) -> None:
    if "PYTHONPATH" in environment and importlib.util.find_spec("tensorrt"):
        pytest.skip("tensorrt is installed here")
    done = board.run(**environment)
    assert done.returncode == 1
    assert f"error: {message}" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_cuda_it_says_what_it_looked_for(board: Board) -> None:
    code = "import run; run.CUDART = ('libabsent.so.1', 'libabsent.so.2'); run.main([])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=board.folder, env={"PYTHONPATH": str(STAND_INS)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "libcudart is not found, looked for libabsent.so.1, libabsent.so.2" in done.stderr


def test_an_engine_of_another_version_is_named_before_it_is_loaded(board: Board) -> None:
    (board.folder / "model.engine.json").write_text('{"tensorrt": "10.16.2"}')
    done = board.run()
    assert "error: model.engine was built by TensorRT 10.16.2, this Python has 10.3.0.26" in done.stderr
    (board.folder / "model.engine.json").write_text('{"tensorrt": "10.3.0"}')
    assert board.run().returncode == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "BF16"}, "y has type BF16, which numpy lacks"),
        ({"shape": [-1, 3, 4]}, "y has the open shape (-1, 3, 4)"),
    ],
)
def test_tensors_that_numpy_cannot_hold(board: Board, change: dict[str, Any], message: str) -> None:
    board.engine(x=X, y=Y | change)
    assert f"error: {message}" in board.run().stderr


def test_tensorrt_8_4_is_too_old(board: Board) -> None:
    board.engine("8.4.1.5")
    assert "error: TensorRT 8.4.1.5 is too old" in board.run(FAKE_TRT="8.4.1.5").stderr


@pytest.mark.usefixtures("rtx")
def test_the_real_bindings_have_the_names_that_it_uses() -> None:
    trt = importlib.import_module("tensorrt_rtx")
    stand_in = (STAND_INS / "tensorrt.py").read_text(encoding="utf-8")
    used = {
        trt.ICudaEngine: [
            "num_io_tensors",
            "get_tensor_name",
            "get_tensor_mode",
            "get_tensor_shape",
            "get_tensor_dtype",
        ],
        trt.IExecutionContext: ["set_tensor_address", "execute_async_v3"],
        trt.Runtime: ["deserialize_cuda_engine"],
        trt.TensorIOMode: ["INPUT"],
        trt.Logger: ["WARNING"],
        trt.DataType: ["FLOAT", "HALF", "INT8", "INT32", "INT64", "UINT8", "BOOL"],
    }
    for owner, names in used.items():
        assert [name for name in names if not hasattr(owner, name)] == []
    assert all(name in stand_in for names in list(used.values())[:3] for name in names)
