"""Engines as runtimes to time with: built for the device that is here, then run by the runtime's own library."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeprune.compiler.timing.lacks import NO_GPU, Lack
from edgeprune.core.errors import TargetError
from edgeprune_targets.profiles import load_target, target_names

if TYPE_CHECKING:
    from edgeprune.compiler.timing.measuring import Timed
    from edgeprune.core.plan import Precision
    from edgeprune_calibration.data import Feed
    from edgeprune_targets.builders.driver import Device
    from edgeprune_targets.builders.runner import EngineRunner, Feeds
    from edgeprune_targets.profiles import Target

_PACKAGES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "tensorrt-rtx")}
_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


@dataclass(frozen=True, slots=True)
class EngineOpened:
    """An engine that is loaded."""

    runner: EngineRunner

    def run(self, feeds: Feeds) -> Feed:
        """Run once, for its outputs."""
        return self.runner.run(feeds)

    def timed(self, feeds: Sequence[Feed]) -> Timed:
        """Time single runs by the device's own clock; an input is brought to it before, when it is another one."""
        loaded: list[int] = []

        def run(number: int) -> float:
            which = number % len(feeds)
            if loaded != [which]:
                self.runner.load(feeds[which])
                loaded[:] = [which]
            return self.runner.sample_ms()

        return run

    def close(self) -> None:
        """Free the device's memory."""
        self.runner.close()


@dataclass(frozen=True, slots=True)
class EngineRuntime:
    """TensorRT or TensorRT-RTX, by the builder of that name."""

    name: str
    on_gpu: bool = True
    timed: str = "the device's own clock around a run, without copies"

    def lacks(self, device: Device | None) -> Lack | None:
        """Why it does not run here; None where it does."""
        if device is None:
            return NO_GPU
        from edgeprune_targets.builders.registry import make_builder

        builder = make_builder(self.name)
        try:
            lacking = builder.lacking() or builder.builds_for(target_like(device))
        except TargetError as error:  # a device that no profile is like
            return Lack(error.message, error.hint)
        reason, _, remedy = (lacking or "").partition(": ")
        return Lack(reason, remedy) if lacking else None

    def precision(self, asked: Precision | None) -> Precision:
        """Fp16 if nothing was asked for, as `compile` builds."""
        return asked or "fp16"

    def version(self) -> str:
        """With its name."""
        return f"{_TITLES[self.name]} {_installed(_PACKAGES[self.name])}".strip()

    def open(self, model: ir.Model, precision: Precision, threads: int, stack: ExitStack) -> EngineOpened:  # noqa: ARG002 (the protocol's)
        """Lower the graph, build its engine for the device that is here, and load it.

        Raises:
            TargetError: if no profile is like the device, or the engine cannot be built.
        """
        from edgeprune_passes.raise_scans import RaiseScans
        from edgeprune_targets.builders.driver import find_device
        from edgeprune_targets.builders.protocol import Origin
        from edgeprune_targets.builders.registry import make_builder
        from edgeprune_targets.builders.runner import open_engine
        from edgeprune_targets.lowering import lower
        from edgeprune_targets.runtimes import runtime_for

        device = find_device()
        assert device is not None
        target = target_like(device)
        runtime = runtime_for(target, self._tensorrt(), self.name)
        model = model.clone()  # which may come as it was delivered, with loops
        RaiseScans().apply(model)
        graph = lower(model, runtime, target, precision).model
        origin = Origin(runtime=runtime.name, typing=runtime.typing)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeprune-")))
        onnx = ir.to_proto(graph).SerializeToString()
        (built,) = make_builder(self.name).build(onnx, [target], folder, name="model", origin=origin)
        if not built.built or built.path is None:
            msg = f"`{self.name}` builds no engine for {device.name}: {built.error or 'no reason given'}"
            raise TargetError(msg, hint="`edgeprune check` names what the runtime does not take")
        opened = EngineOpened(open_engine(Path(built.path)))
        stack.callback(opened.close)
        return opened

    def _tensorrt(self) -> str | None:
        installed = _installed(_PACKAGES["tensorrt"]) if self.name == "tensorrt" else ""
        return ".".join(installed.split(".")[:2]) or None


def target_like(device: Device) -> Target:
    """The profile of a device: one of its compute capability, best the one whose name its own name holds.

    Raises:
        TargetError: if none has its compute capability.
    """
    profiles = [load_target(name) for name in target_names()]
    alike = [profile for profile in profiles if profile.compute_capability == device.compute_capability]
    if not alike:
        msg = f"no profile has the compute capability {device.compute_capability} of {device.name}"
        raise TargetError(msg, hint="`edgeprune targets list` names the profiles; write one and give its path")
    words = set(_words(device.name))
    return max(alike, key=lambda profile: len(words & set(_words(profile.name))))


def _words(name: str) -> list[str]:
    """'NVIDIA GeForce RTX 4090' and 'rtx-4090' share rtx and 4090."""
    return re.findall(r"[a-z]+|\d+", name.lower())


def _installed(packages: Sequence[str]) -> str:
    """Version of the first that is installed; empty if none is."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(packages[0])
    return _installed(packages[1:]) if len(packages) > 1 else ""
