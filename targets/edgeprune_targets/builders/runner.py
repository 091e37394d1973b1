"""Engines that run on this machine: one face for TensorRT, TensorRT-RTX and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from edgeprune.core.digest import sha256_of
from edgeprune.core.errors import DataError, TargetError
from edgeprune.core.results import Timing
from edgeprune_targets.builders.manifest import Manifest, Tensor, read_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

Feeds: TypeAlias = "Mapping[str, np.ndarray[Any, Any]]"
Arrays: TypeAlias = "dict[str, np.ndarray[Any, Any]]"


class Loaded(Protocol):
    """An engine in its runtime, with inputs that lie where it reads them."""

    def load(self, feeds: Feeds) -> None:
        """Bring checked feeds to the device."""
        ...

    def run(self) -> Arrays:
        """Run once on what was loaded, and bring the outputs back."""
        ...

    def sample_ms(self) -> float:
        """Run once on what was loaded, and take the time without copies."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class EngineRunner:
    """An engine that can be run and timed; made by `open_engine`.

    Attributes:
        manifest: of the engine.
        inputs: what `run` has to be fed.
        outputs: what it gives.
    """

    def __init__(self, loaded: Loaded, manifest: Manifest) -> None:
        self._loaded: Loaded | None = loaded
        self.manifest = manifest
        self.inputs: tuple[Tensor, ...] = manifest.inputs
        self.outputs: tuple[Tensor, ...] = manifest.outputs

    def run(self, feeds: Feeds) -> Arrays:
        """Outputs by name. A feed that the engine has no input for is left out.

        Raises:
            DataError: if an input is not fed, or fed what does not fit.
            TargetError: if the device fails, or the engine was closed.
        """
        self.load(feeds)
        return self._open().run()

    def load(self, feeds: Feeds) -> None:
        """Bring feeds to where `sample_ms` reads them.

        Raises:
            DataError: if an input is not fed, or fed what does not fit.
            TargetError: if the engine was closed.
        """
        self._open().load({each.name: _fitting(each, feeds) for each in self.inputs})

    def sample_ms(self) -> float:
        """Milliseconds of one run on what was loaded last, without copies.

        Raises:
            TargetError: if the device fails, or the engine was closed.
        """
        return self._open().sample_ms()

    def time(self, feeds: Feeds, *, warm_up: int = 50, samples: int = 200) -> Timing:
        """Time repeated runs. The first ones compile kernels and raise clocks, so they are not counted.

        Raises:
            DataError: if `samples` is below 1, or the feeds do not fit.
            TargetError: if the device fails, or the engine was closed.
        """
        if samples < 1 or warm_up < 0:
            msg = f"`samples` is {samples} and `warm_up` {warm_up}, expected at least 1 and 0"
            raise DataError(msg, hint="200 samples after 50 runs are a good start")
        self.load(feeds)
        for _ in range(warm_up):
            self.sample_ms()
        return timing_of([self.sample_ms() for _ in range(samples)])

    def close(self) -> None:
        """Free the device's memory; a closed engine cannot be run."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()

    def __enter__(self) -> EngineRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Loaded:
        if self._loaded is None:
            msg = "the engine is closed"
            raise TargetError(msg, hint="open it again with open_engine")
        return self._loaded


def open_engine(path: Path, *, threads: int = 1) -> EngineRunner:
    """Load an engine that edgeprune built.

    Args:
        path: of the engine, with its manifest beside it.
        threads: of ONNX Runtime; TensorRT takes none.

    Raises:
        TargetError: if there is no such engine, it is not the manifest's, or this machine cannot run it.
    """
    manifest = read_manifest(path)
    _check_file(path, manifest)
    if manifest.builder == "onnxruntime":
        from edgeprune_targets.builders._run_onnxruntime import OrtEngine

        return EngineRunner(OrtEngine(path, manifest, threads), manifest)
    if manifest.builder not in {"tensorrt", "tensorrt-rtx"}:
        msg = f"engines of the builder `{manifest.builder}` cannot be run by edgeprune: {path}"
        raise TargetError(msg, hint="run it with the runtime that it was built for")
    from edgeprune_targets.builders._run_tensorrt import TensorRtEngine

    return EngineRunner(TensorRtEngine(path, manifest), manifest)


def timing_of(samples_ms: Sequence[float]) -> Timing:
    """Percentiles of measured latencies."""
    p50, p90, p99 = (float(value) for value in np.percentile(samples_ms, (50, 90, 99)))
    return Timing(p50_ms=p50, p90_ms=p90, p99_ms=p99, samples=len(samples_ms))


def _check_file(path: Path, manifest: Manifest) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        msg = f"cannot read the engine {path}: {error.strerror or error}"
        raise TargetError(msg, hint="build it with `edgeprune compile`") from error
    if found != manifest.engine_sha256:
        msg = f"the engine {path} has the sha256 {found[:12]}, its manifest expects {manifest.engine_sha256[:12]}"
        raise TargetError(msg, hint="build it again: the file was changed or cut off after it was written")


def _fitting(tensor: Tensor, feeds: Feeds) -> np.ndarray[Any, Any]:
    if tensor.name not in feeds:
        msg = f"input `{tensor.name}` is not fed, the data has {', '.join(feeds) or 'nothing'}"
        raise DataError(msg, hint="name the arrays as the engine names its inputs")
    found = feeds[tensor.name]
    fits = len(found.shape) == len(tensor.shape) and all(
        want in {-1, got} for want, got in zip(tensor.shape, found.shape, strict=True)
    )
    if not fits or found.dtype != tensor.numpy:
        msg = (
            f"input `{tensor.name}` is fed {found.dtype.name}{list(found.shape)}, "
            f"expected {tensor.dtype}{list(tensor.shape)}"
        )
        raise DataError(msg, hint="run it at the batch size and shapes that the model was compiled for")
    return np.ascontiguousarray(found)
