"""ONNX Runtime as a builder: the graph as one execution provider rewrote it, saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from edgeprune_targets.builders._delivery import Order, build_all
from edgeprune_targets.builders.protocol import UNKNOWN, Origin

if TYPE_CHECKING:
    from edgeprune.core.results import EngineBuild
    from edgeprune_targets.profiles import Target

Provider: TypeAlias = Literal["cpu", "cuda", "tensorrt"]
PROVIDERS: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


@dataclass(frozen=True, slots=True)
class OrtBuilder:
    """Models optimised offline, built in a child process: ONNX Runtime 1.31 crashes over some fp16 graphs.

    A crash at the highest level of optimisation is answered by the next lower one; the manifest names the level. The
    file is for machines like this one: the highest level lays weights out for the processor at hand.

    Attributes:
        timeout_s: of one model.
        provider: 'cpu', 'cuda' or 'tensorrt'.
        provider_options: given to the execution provider as they are, and recorded.
    """

    name: ClassVar[str] = "onnxruntime"
    timeout_s: float = 900.0
    provider: Provider = "cpu"
    provider_options: dict[str, str] = field(default_factory=dict)

    def lacking(self) -> str | None:
        """Why nothing can be built here and how to change that; None where it can."""
        import onnxruntime

        here = onnxruntime.get_available_providers()
        if PROVIDERS[self.provider] in here:
            return None
        return (
            f"ONNX Runtime {onnxruntime.__version__} here has no {PROVIDERS[self.provider]}, it has "
            f'{", ".join(here)}: pip install "edgeprune[gpu]" in place of onnxruntime'
        )

    def builds_for(self, target: Target) -> str | None:  # noqa: ARG002 - the protocol's
        """None: ONNX Runtime runs on every target, and the file is for the provider."""
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
        """Build `folder/NAME.PROVIDER.onnx`, which all `targets` share; see `Builder.build`."""
        order = Order(
            builder=self.name,
            words="ONNX Runtime",
            packages=("onnxruntime",),
            request={
                "module": "onnxruntime",
                "provider": PROVIDERS[self.provider],
                "provider_options": self.provider_options,
                "level": "all",
            },
            job=lambda _: {},
            file=lambda _: f"{name}.{self.provider}.onnx",
            attentions=attentions,
            origin=origin,
            timeout_s=self.timeout_s,
            device_bound=False,
            options=dict(self.provider_options),
            milder=({"level": "extended"}, {"level": "basic"}),
        )
        return build_all(order, model, targets, folder, lambda _: self.lacking())
