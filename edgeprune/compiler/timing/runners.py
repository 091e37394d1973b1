"""The runtimes that a model can be timed with here: what each lacks, and how a graph is opened in it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol

import onnx_ir as ir

from edgeprune.compiler.timing.engines import EngineRuntime
from edgeprune.compiler.timing.lacks import NO_GPU, Lack
from edgeprune.compiler.timing.measuring import WALL_TIME, clocked
from edgeprune.core.errors import TargetError
from edgeprune_calibration.runner import Runner, available_providers, onnxruntime_version
from edgeprune_targets.precision import to_fp16

if TYPE_CHECKING:
    from edgeprune.compiler.timing.measuring import Timed
    from edgeprune.core.plan import Precision
    from edgeprune_calibration.data import Feed
    from edgeprune_calibration.runner import Provider
    from edgeprune_targets.builders.driver import Device
    from edgeprune_targets.builders.runner import Feeds


class Opened(Protocol):
    """A model in a runtime."""

    def close(self) -> None:
        """Free what it holds."""
        ...

    def run(self, feeds: Feeds) -> Feed:
        """Run once, for its outputs."""
        ...

    def timed(self, feeds: Sequence[Feed]) -> Timed:
        """What runs it on the feeds in turn and takes the time."""
        ...


class Runtime(Protocol):
    """A way to run a graph on this machine."""

    @property
    def name(self) -> str:
        """By which users ask for it."""
        ...

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on an NVIDIA device."""
        ...

    @property
    def timed(self) -> str:
        """What a run is: with or without copies to the device, by which clock."""
        ...

    def lacks(self, device: Device | None) -> Lack | None:
        """Why it does not run here; None where it does."""
        ...

    def precision(self, asked: Precision | None) -> Precision:
        """Of the matrix products, with the default decided."""
        ...

    def version(self) -> str:
        """With its name."""
        ...

    def open(self, model: ir.Model, precision: Precision, threads: int, stack: ExitStack) -> Opened:
        """Open a graph of fp32; what has to be closed goes to the stack."""
        ...


@dataclass(frozen=True, slots=True)
class OrtOpened:
    """A session of ONNX Runtime. `place`: where its inputs and outputs lie, 'cpu' or 'cuda'."""

    runner: Runner
    place: str

    def run(self, feeds: Feeds) -> Feed:
        """Run once, for its outputs."""
        return self.runner.run(feeds)

    def timed(self, feeds: Sequence[Feed]) -> Timed:
        """Time runs on buffers that lie on the device already."""
        bound = [self.runner.bound(feed, self.place) for feed in feeds]
        return clocked(lambda run: bound[run % len(bound)](run))

    def close(self) -> None:
        """Nothing: the session goes with the object."""


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """ONNX Runtime with one execution provider, and the processor for what that one does not take."""

    name: str
    provider: str
    on_gpu: bool

    @property
    def timed(self) -> str:
        """What a run is."""
        return f"{WALL_TIME}, inputs and outputs {'on the device' if self.on_gpu else 'in place'}"

    def lacks(self, device: Device | None) -> Lack | None:
        """Why it does not run here; None where it does."""
        if self.on_gpu and device is None:
            return NO_GPU
        if self.provider not in available_providers():
            remedy = 'pip uninstall onnxruntime, then pip install "edgeprune[gpu]"'
            return Lack(f"this ONNX Runtime has no {self.provider}", remedy)
        return None

    def precision(self, asked: Precision | None) -> Precision:
        """Fp32 on the processor, fp16 on a GPU, if nothing was asked for."""
        return asked or ("fp16" if self.on_gpu else "fp32")

    def version(self) -> str:
        """With its name."""
        return f"ONNX Runtime {onnxruntime_version()}"

    def open(self, model: ir.Model, precision: Precision, threads: int, stack: ExitStack) -> Opened:  # noqa: ARG002 (the protocol's)
        """Open a session.

        Raises:
            TargetError: if the provider does not start.
        """
        graph = to_fp16(model) if precision == "fp16" else model
        runner = Runner(graph, threads=threads, providers=self._providers(precision))
        if runner.provider != self.provider:
            msg = f"ONNX Runtime could not start {self.provider} and fell back to {runner.provider}"
            raise TargetError(msg, hint="its log above names the library that is missing: CUDA, cuDNN or TensorRT")
        return OrtOpened(runner, "cuda" if self.on_gpu else "cpu")

    def _providers(self, precision: Precision) -> list[Provider]:
        if not self.on_gpu:
            return [self.provider]
        half = {"trt_fp16_enable": "1"} if precision == "fp16" and "Tensorrt" in self.provider else {}
        cuda = [] if "CUDA" in self.provider else ["CUDAExecutionProvider"]
        return [(self.provider, half), *cuda, "CPUExecutionProvider"]


def runtimes() -> dict[str, Runtime]:
    """The runtimes by name, in the order in which they are timed."""
    known: list[Runtime] = [
        OnnxRuntime("onnxruntime-cpu", "CPUExecutionProvider", on_gpu=False),
        OnnxRuntime("onnxruntime-cuda", "CUDAExecutionProvider", on_gpu=True),
        OnnxRuntime("onnxruntime-tensorrt", "TensorrtExecutionProvider", on_gpu=True),
        EngineRuntime("tensorrt"),
        EngineRuntime("tensorrt-rtx"),
    ]
    return {runtime.name: runtime for runtime in known}


@dataclass(frozen=True, slots=True)
class Choice:
    """What is measured with.

    Attributes:
        runtimes: that run here and were asked for; all that run, if none was.
        lacking: those that do not run although an NVIDIA device is here; named only if none was asked for.
        device: the NVIDIA device that is here.
    """

    runtimes: tuple[Runtime, ...]
    lacking: dict[str, Lack]
    device: Device | None


def choose_runtimes(names: Sequence[str]) -> Choice:
    """Find out what runs here.

    Raises:
        TargetError: if one that was asked for is not known, or does not run here.
    """
    from edgeprune_targets.builders.driver import find_device

    known, device = runtimes(), find_device()
    if names:
        return Choice(tuple(_asked(name, known, device) for name in dict.fromkeys(names)), {}, device)
    lacks = {name: runtime.lacks(device) for name, runtime in known.items()}
    run = tuple(runtime for name, runtime in known.items() if lacks[name] is None)
    # Without a device nobody expects the others.
    lacking = {name: lack for name, lack in lacks.items() if lack is not None and device is not None}
    return Choice(run, lacking, device)


def _asked(name: str, known: dict[str, Runtime], device: Device | None) -> Runtime:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
        msg = f"no runtime is named `{name}`"
        raise TargetError(msg, hint=hint)
    if lack := known[name].lacks(device):
        msg = f"`{name}` does not run here: {lack.reason}"
        raise TargetError(msg, hint=lack.remedy)
    return known[name]
