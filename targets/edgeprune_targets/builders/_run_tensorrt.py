"""An engine of TensorRT or TensorRT-RTX on this machine's device."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.core.errors import TargetError
from edgeprune.core.whole import write_whole
from edgeprune_targets.builders.cache import runtime_cache
from edgeprune_targets.builders.cuda import Cuda
from edgeprune_targets.builders.manifest import Manifest, Tensor

if TYPE_CHECKING:
    from edgeprune_targets.builders.runner import Arrays, Feeds

_WORDS = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_EXTRA = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}


class TensorRtEngine:
    """Engine, execution context and one buffer a tensor; shapes are static, so nothing is allocated in a run."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._words = _WORDS[manifest.builder]
        self._cuda = Cuda()
        self._buffers: dict[str, int] = {}
        self._cache_path: Path | None = None
        self._runtime_cache: Any = None
        self._context: Any = None
        self._engine: Any = None
        self._runtime: Any = None
        self._outputs = manifest.outputs
        try:
            self._check_device(path, manifest)
            self._load_engine(path, manifest)
            for tensor in (*manifest.inputs, *manifest.outputs):
                self._bind(tensor)
        except BaseException:
            self.close()
            raise

    def load(self, feeds: Feeds) -> None:
        """Copy the feeds to the device."""
        for name, array in feeds.items():
            self._cuda.upload(self._buffers[name], array)

    def run(self) -> Arrays:
        """Run once on what was loaded, and copy the outputs back."""
        self._enqueue()
        self._cuda.synchronize()
        found: Arrays = {}
        for tensor in self._outputs:
            array = np.empty(tensor.shape, tensor.numpy)
            self._cuda.download(array, self._buffers[tensor.name])
            found[tensor.name] = array
        return found

    def sample_ms(self) -> float:
        """Run once on what was loaded, by the device's clock."""
        self._cuda.start_clock()
        self._enqueue()
        return self._cuda.stop_clock_ms()

    def close(self) -> None:
        """Keep the kernels that were compiled, and free everything in the order that the library wants."""
        kept = None if self._runtime_cache is None else self._runtime_cache.serialize()
        if kept is not None and self._cache_path is not None:
            with contextlib.suppress(OSError):  # a cache that cannot be kept costs time, nothing else
                write_whole(self._cache_path, bytes(memoryview(kept)))
        self._context = self._runtime_cache = self._engine = self._runtime = None
        for address in self._buffers.values():
            self._cuda.free(address)
        self._buffers.clear()
        self._cuda.close()

    def _check_device(self, path: Path, manifest: Manifest) -> None:
        device = self._cuda.device
        if device.compute_capability != manifest.compute_capability:
            msg = (
                f"the engine {path} is for compute capability {manifest.compute_capability}, "
                f"this machine has {device.name} with {device.compute_capability}"
            )
            raise TargetError(msg, hint="build it for a target of this device")

    def _load_engine(self, path: Path, manifest: Manifest) -> None:
        trt = self._library(manifest)
        logger, said = _logger(trt)
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            why = f": {said[-1]}" if said else ""
            msg = (
                f"{self._words} {trt.__version__} does not load {path}, "
                f"which {self._words} {manifest.builder_version} built{why}"
            )
            raise TargetError(msg, hint="build it with the version that runs it")
        self._context = self._new_context(manifest)
        if self._context is None:
            why = f": {said[-1]}" if said else ""
            msg = f"{self._words} cannot make room to run {path}{why}"
            raise TargetError(msg, hint="free the device's memory")

    def _library(self, manifest: Manifest) -> Any:
        try:
            return importlib.import_module(manifest.builder.replace("-", "_"))
        except ImportError as error:
            msg = f"{self._words} cannot be loaded here: {error}"
            raise TargetError(msg, hint=f'pip install "edgeprune[{_EXTRA[manifest.builder]}]"') from error

    def _new_context(self, manifest: Manifest) -> Any:
        """TensorRT-RTX compiles kernels at the first run; those of earlier processes are taken from the cache."""
        if manifest.builder != "tensorrt-rtx" or not hasattr(self._engine, "create_runtime_config"):
            return self._engine.create_execution_context()
        device = self._cuda.device
        self._cache_path = runtime_cache(manifest.engine_sha256, device.compute_capability, device.driver)
        config = self._engine.create_runtime_config()
        self._runtime_cache = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            self._runtime_cache.deserialize(self._cache_path.read_bytes())  # one that does not fit is left alone
        config.set_runtime_cache(self._runtime_cache)
        return self._engine.create_execution_context(config)

    def _bind(self, tensor: Tensor) -> None:
        if any(size < 0 for size in tensor.shape):
            msg = f"`{tensor.name}` of the engine has the open shape {list(tensor.shape)}, expected a static one"
            raise TargetError(msg, hint="engines of `edgeprune compile` are static: build it with that")
        size = int(np.prod(tensor.shape, dtype=np.int64)) * tensor.numpy.itemsize
        self._buffers[tensor.name] = self._cuda.allocate(size)
        if not self._context.set_tensor_address(tensor.name, self._buffers[tensor.name]):
            msg = f"{self._words} knows no tensor `{tensor.name}` in the engine, though its manifest does"
            raise TargetError(msg, hint="build it again")

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            msg = f"{self._words} fails to run the engine"
            raise TargetError(msg, hint="free the device's memory, or build the engine again")


def _logger(trt: Any) -> tuple[Any, list[str]]:
    said: list[str] = []

    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                said.append(" ".join(message.split())[:300])

    return Collector(), said
