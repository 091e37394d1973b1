#!/usr/bin/env python3
"""Run a TensorRT engine on your inputs. Needs Python 3.8 or later, tensorrt 8.5 or later, and numpy.

    python3 run.py                                  model.engine on random inputs
    python3 run.py -i image.npy -o out.npz          one input
    python3 run.py -i inputs.npz -o out.npz         several, by name
    python3 run.py --compare reference.npz          hold outputs against known ones: exit status 3 if they differ
    python3 run.py --time 200                       time as a program sees it, launch included

A `.npy` is for an engine with one input; a `.npz` names them, and may hold more rows than the engine's batch takes, a
whole number of batches. A reference `.npz` holds arrays `input:NAME` and `output:NAME`.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np

# Of the numpy type for each tensor type; trt.nptype of 8.x breaks on newer numpy.
NUMPY_TYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
CUDART = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2")
TO_DEVICE, TO_HOST = 1, 2


class RunError(Exception):
    """What went wrong, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class Cuda:
    """Memory and a stream of the device, through the CUDA runtime library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        self.stream = stream.value or 0

    @classmethod
    def load(cls) -> Cuda:
        """The first runtime library that the loader finds."""
        for name in CUDART:
            try:
                return cls(ctypes.CDLL(name))
            except OSError:
                continue
        raise RunError(
            "libcudart is not found, looked for " + ", ".join(CUDART),
            "set LD_LIBRARY_PATH to the lib64 folder of CUDA, on Jetson /usr/local/cuda/lib64",
        )

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status == 0:
            return
        text = self._library.cudaGetErrorString
        text.restype = ctypes.c_char_p
        raise RunError(
            f"{name}: {(text(status) or b'unknown error').decode()}",
            "see with nvidia-smi or tegrastats whether the GPU has memory",
        )

    def allocate(self, size: int) -> int:
        """Address of new device memory."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value or 0

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy an array to the device."""
        self._copy(address, array.ctypes.data, array.nbytes, TO_DEVICE)

    def download(self, address: int, array: np.ndarray) -> None:
        """Copy device memory into an array."""
        self._copy(array.ctypes.data, address, array.nbytes, TO_HOST)

    def _copy(self, to: int, source: int, size: int, kind: int) -> None:
        self._call("cudaMemcpy", ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size), kind)

    def wait(self) -> None:
        """Until the stream is done."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(self.stream))


class Engine:
    """A loaded engine with memory for its inputs and outputs."""

    def __init__(self, path: str, trt: ModuleType, cuda: Cuda) -> None:
        self._cuda = cuda
        self._log = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(read_engine(path, trt.__version__))
        if self._engine is None:
            raise RunError(
                f"TensorRT {trt.__version__} does not load {path}; its own words are above",
                "an engine fits the TensorRT version and the device that built it: ./build.sh --rebuild",
            )
        if not hasattr(self._engine, "num_io_tensors"):
            raise RunError(f"TensorRT {trt.__version__} is too old: 8.5 or later is needed", "update JetPack to 5.1")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise RunError(f"there is no memory to run {path}", "stop other programs that use the GPU")
        self.inputs: dict[str, np.ndarray] = {}
        self.outputs: dict[str, np.ndarray] = {}
        self._addresses: dict[str, int] = {}
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            array: np.ndarray = np.zeros(*self._type_of(name))
            mode = self._engine.get_tensor_mode(name)
            (self.inputs if mode == trt.TensorIOMode.INPUT else self.outputs)[name] = array
            self._addresses[name] = cuda.allocate(array.nbytes)
            self._context.set_tensor_address(name, self._addresses[name])

    def _type_of(self, name: str) -> tuple[tuple[int, ...], type]:
        shape = tuple(self._engine.get_tensor_shape(name))
        word = self._engine.get_tensor_dtype(name).name
        if min(shape, default=1) < 0:
            raise RunError(f"{name} has the open shape {shape}", "edgeprune writes static shapes: use its model.onnx")
        if word not in NUMPY_TYPES:
            raise RunError(f"{name} has type {word}, which numpy lacks", "give the model float inputs and outputs")
        return shape, NUMPY_TYPES[word]

    def upload(self, feeds: dict[str, np.ndarray]) -> None:
        """Inputs to the device."""
        for name, array in feeds.items():
            self._cuda.upload(self._addresses[name], array)

    def execute(self) -> None:
        """One run, until it is done."""
        if not self._context.execute_async_v3(self._cuda.stream):
            raise RunError("TensorRT could not run the engine; its own words are above", "./build.sh --rebuild")
        self._cuda.wait()

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        self.upload(feeds)
        self.execute()
        for name, array in self.outputs.items():
            self._cuda.download(self._addresses[name], array)
        return {name: array.copy() for name, array in self.outputs.items()}


def read_engine(path: str, version: str) -> bytes:
    """The engine's bytes, if what build.sh noted beside it fits this TensorRT."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}", "run ./build.sh first") from error
    try:
        made = json.loads(Path(path + ".json").read_text(encoding="utf-8"))["tensorrt"]
    except (OSError, ValueError, KeyError):
        return data  # not of build.sh: TensorRT itself will tell
    if made.split(".")[:3] != version.split(".")[:3]:
        raise RunError(f"{path} was built by TensorRT {made}, this Python has {version}", "build it again: ./build.sh")
    return data


def load_arrays(path: str, names: list[str]) -> dict[str, np.ndarray]:
    """Arrays of a `.npy` (for the one name) or `.npz` by name."""
    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            with found:
                return {name: found[name] for name in found.files}
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}", "give a .npy or .npz file of numbers") from error
    if len(names) != 1:
        raise RunError(f"{path} is one array, the engine has {len(names)}: {', '.join(names)}", "give a .npz by name")
    return {names[0]: found}


def fitted(name: str, array: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The array with the engine's type and a whole number of its batches."""
    if array.shape == like.shape[1:] and like.shape[:1] == (1,):
        array = array[None]
    if array.shape[1:] != like.shape[1:] or (like.ndim and (not len(array) or len(array) % len(like))):
        raise RunError(f"input {name} has shape {array.shape}, expected {like.shape}", "or a whole number of batches")
    if not np.can_cast(array.dtype, like.dtype, "same_kind"):
        raise RunError(f"input {name} is {array.dtype}, expected {like.dtype}", "convert it before")
    return np.ascontiguousarray(array, like.dtype)


def random_inputs(engine: Engine, seed: int) -> dict[str, np.ndarray]:
    """Normal floats; integers 0 and 1, which every table of embeddings has."""
    random = np.random.default_rng(seed)
    feeds = {}
    for name, like in engine.inputs.items():
        numbers = random.standard_normal(like.shape) if like.dtype.kind == "f" else random.integers(0, 2, like.shape)
        feeds[name] = np.asarray(numbers, like.dtype)
    return feeds


def make_inputs(engine: Engine, given: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Checked inputs; random ones if none are given."""
    if not given:
        return random_inputs(engine, seed)
    if set(given) != set(engine.inputs):
        raise RunError(f"inputs are {', '.join(given)}, expected {', '.join(engine.inputs)}", "name them as the engine")
    return {name: fitted(name, given[name], like) for name, like in engine.inputs.items()}


def run_batches(engine: Engine, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of all batches, one after the other."""
    batches = {len(array) // len(engine.inputs[name]) if array.ndim else 1 for name, array in feeds.items()}
    if len(batches) > 1:
        raise RunError(f"the inputs hold different numbers of batches: {sorted(batches)}", "give the same of each")
    parts = []
    for i in range(batches.pop()):
        rows = {name: len(like) if like.ndim else 0 for name, like in engine.inputs.items()}
        parts.append(engine.run({n: a[i * rows[n] : (i + 1) * rows[n]] if a.ndim else a for n, a in feeds.items()}))
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def differences(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """By output: cosine and ||ours - expected|| / ||expected||. What is not finite differs."""
    found = {}
    for name, right in expected.items():
        if name not in outputs or outputs[name].shape != right.shape:
            shapes = {each: array.shape for each, array in outputs.items()}
            raise RunError(f"the reference has {name} {right.shape}, the engine gives {shapes}", "is it of this model")
        ours, wanted = (array.astype(np.float64).ravel() for array in (outputs[name], right))
        scale = float(np.linalg.norm(wanted)) or 1.0
        lengths = float(np.linalg.norm(ours)) * scale
        cosine = float(ours @ wanted) / lengths if lengths else float(np.array_equal(ours, wanted))
        found[name] = (cosine, float(np.linalg.norm(ours - wanted)) / scale)
    return found


def timed(engine: Engine, runs: int) -> str:
    """Wall time of single runs whose inputs are on the device."""
    for _ in range(20):
        engine.execute()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        engine.execute()
        times.append(1e3 * (time.perf_counter() - began))
    p50, p90, p99 = (float(np.percentile(times, share)) for share in (50, 90, 99))
    return f"measured: p50 {p50:.3f} ms, p90 {p90:.3f} ms, p99 {p99:.3f} ms over {runs} runs, launch included"


def save(path: str, outputs: dict[str, np.ndarray]) -> None:
    """Write a `.npz`, whole or not at all."""
    part = Path(path + ".part")
    try:
        with part.open("wb") as file:
            np.savez(file, **outputs)  # type: ignore[arg-type]
        part.replace(path)
    except OSError as error:
        if part.exists():
            part.unlink()
        raise RunError(f"cannot write {path}: {error.strerror}", "free some space or choose another place") from error


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", nargs="?", default="model.engine")
    parser.add_argument("-i", "--inputs", metavar="FILE", help=".npy or .npz; random if left out")
    parser.add_argument("-o", "--outputs", metavar="FILE", help="write the outputs as .npz")
    parser.add_argument("--compare", metavar="FILE", help="reference .npz, whose inputs are taken if none are given")
    # fp16 alone stays far inside both; a wrong kernel, or another model, is far outside.
    parser.add_argument("--min-cosine", type=float, default=0.99, help="default %(default)s")
    parser.add_argument("--max-error", type=float, default=0.1, help="relative, default %(default)s")
    parser.add_argument("--time", type=int, default=0, metavar="RUNS", help="time so many runs")
    parser.add_argument("--seed", type=int, default=0, help="of random inputs")
    return parser.parse_args(arguments)


def part_of(arrays: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Arrays whose names begin with the kind."""
    return {name[len(kind) :]: array for name, array in arrays.items() if name.startswith(kind)}


def main(arguments: list[str]) -> int:
    """Do what the command line says; exit status 3 if outputs differ from the reference."""
    asked = options(arguments)
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise RunError(
            f"tensorrt cannot be imported: {error}", "on Jetson it is of the system's own python3"
        ) from error
    engine = Engine(asked.engine, trt, Cuda.load())
    reference = load_arrays(asked.compare, []) if asked.compare else {}
    expected = part_of(reference, "output:")
    if asked.compare and not expected:
        raise RunError(f"{asked.compare} holds no array named output:NAME", "give the reference.npz of the bundle")
    given = load_arrays(asked.inputs, list(engine.inputs)) if asked.inputs else part_of(reference, "input:")
    feeds = make_inputs(engine, given, asked.seed)
    outputs = run_batches(engine, feeds)
    for name, array in outputs.items():
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        print(f"{name}: {array.dtype} {array.shape}, {low:.6g} to {high:.6g}")
    if asked.outputs:
        save(asked.outputs, outputs)
    if asked.time > 0:
        print(timed(engine, asked.time))
    if not asked.compare:
        return 0
    good = True
    for name, (cosine, distance) in differences(outputs, expected).items():
        fine = cosine >= asked.min_cosine and distance <= asked.max_error
        good = good and fine
        print(f"{name}: cosine {cosine:.6f}, relative error {distance:.6f}: {'agrees' if fine else 'DIFFERS'}")
    return 0 if good else 3


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RunError as error:
        sys.exit(f"error: {error.message}\nhint: {error.hint}")
