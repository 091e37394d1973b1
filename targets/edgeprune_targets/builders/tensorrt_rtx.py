"""Engines by TensorRT-RTX. No GPU is needed, so one machine builds for every desktop card from Turing on."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgeprune_targets._profile_fields import RTX_CAPABILITIES
from edgeprune_targets.builders._delivery import Order, build_all
from edgeprune_targets.builders.protocol import UNKNOWN, Origin

if TYPE_CHECKING:
    from edgeprune.core.results import EngineBuild
    from edgeprune_targets.profiles import Target


@dataclass(frozen=True, slots=True)
class RtxBuilder:
    """Strongly typed engines, built in a child process.

    Attributes:
        timeout_s: of one engine; a build that takes longer is an error.
    """

    name: ClassVar[str] = "tensorrt-rtx"
    timeout_s: float = 900.0

    def lacking(self) -> str | None:
        """Why nothing can be built here and how to change that; None where it can."""
        if importlib.util.find_spec("tensorrt_rtx") is None:
            return 'TensorRT-RTX is not installed: pip install "edgeprune[rtx]"'
        return None

    def builds_for(self, target: Target) -> str | None:
        """Why no engine for `target` can come out of this machine, and what to do; None where it can."""
        if target.compute_capability in RTX_CAPABILITIES:
            return None
        return (
            f"TensorRT-RTX does not build for compute capability {target.compute_capability}, "
            f"only for {', '.join(RTX_CAPABILITIES)}: build on the device with deploy/build.sh"
        )

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
        """Build `folder/NAME.smXX.engine` for each compute capability of `targets`; see `Builder.build`."""
        order = Order(
            builder=self.name,
            words="TensorRT-RTX",
            packages=("tensorrt-rtx",),
            request={
                "module": "tensorrt_rtx",
                "builder": self.name,
                "words": "TensorRT-RTX",
                "typing": origin.typing,
                "workspace_mib": None,
                "level": None,
            },
            # Its API has a timing cache, but no use for one: it times nothing, and kernels are compiled on the device.
            job=lambda target: {"sm": target.sm, "timed": None, "layers": None},
            file=lambda target: f"{name}.{target.sm}.engine",
            attentions=attentions,
            origin=origin,
            timeout_s=self.timeout_s,
        )
        return build_all(order, model, targets, folder, lambda target: self.builds_for(target) or self.lacking())
