"""Engines by TensorRT, from 8.5 to 11, on the machine and for the device that they will run on."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgeprune_targets.builders._delivery import Order, build_all
from edgeprune_targets.builders.driver import find_device
from edgeprune_targets.builders.protocol import UNKNOWN, Origin

if TYPE_CHECKING:
    from edgeprune.core.results import EngineBuild
    from edgeprune_targets.builders._child import Answer
    from edgeprune_targets.profiles import Target


@dataclass(frozen=True, slots=True)
class TensorRtBuilder:
    """Engines tuned on this machine's GPU, built in a child process; timings are kept in the user's cache folder.

    Attributes:
        timeout_s: of one engine; a build that takes longer is an error.
        workspace_mib: memory that a kernel may take for itself; None is all of the device's.
        level: builder optimisation level, 0 to 5; None leaves it to the library.
    """

    name: ClassVar[str] = "tensorrt"
    timeout_s: float = 3600.0
    workspace_mib: int | None = None
    level: int | None = None

    def lacking(self) -> str | None:
        """Why nothing can be built here and how to change that; None where it can."""
        if importlib.util.find_spec("tensorrt") is None:
            return 'TensorRT is not installed: pip install "edgeprune[tensorrt]"; on a Jetson run deploy/build.sh'
        if find_device() is None:
            return "TensorRT builds on the device only, and no NVIDIA device is here: run deploy/build.sh there"
        return None

    def builds_for(self, target: Target) -> str | None:
        """Why no engine for `target` can come out of this machine, and what to do; None where it can."""
        device = find_device()
        if device is None:
            return "TensorRT builds on the device itself: copy deploy/ there and run build.sh"
        if device.compute_capability != target.compute_capability:
            return (
                f"TensorRT builds for the GPU of this machine, {device.name} with compute capability "
                f"{device.compute_capability}, expected {target.compute_capability}: "
                "copy deploy/ to the device and run build.sh"
            )
        return None

    def build(
        self,
        model: Path | bytes,
        targets: Sequence[Target],
        folder: Path,
        *,
        name: str,
        attentions: int | None = None,
        origin: Origin = UNKNOWN,
    ) -> list[EngineBuild]:
        """Build `folder/NAME.smXX.engine` with the layers that it has; see `Builder.build`."""
        options = {"workspace_mib": self.workspace_mib, "level": self.level}
        order = Order(
            builder=self.name,
            words="TensorRT",
            packages=("tensorrt",),
            request={"module": "tensorrt", "builder": self.name, "words": "TensorRT", "typing": origin.typing}
            | options,
            job=_job,
            file=lambda target: f"{name}.{target.sm}.trt.engine",
            attentions=attentions,
            origin=origin,
            timeout_s=self.timeout_s,
            options={key: value for key, value in options.items() if value is not None},
        )
        return build_all(order, model, targets, folder, lambda target: self.lacking() or self.builds_for(target))


def _job(target: Target) -> Answer:
    device = find_device()
    timed = {"capability": target.compute_capability, "driver": device.driver if device else "unknown"}
    return {"sm": None, "timed": timed, "layers": True}
