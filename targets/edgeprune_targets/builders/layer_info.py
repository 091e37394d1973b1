"""What the engine inspector tells, in the words of TensorRT 8 to 10 and in those of 11."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from edgeprune.core.errors import TargetError

_FUSED = ("_gemm_mha_v", "_gemv_mha_v", "fused_mha", "kgen_mha", "_fmha_", "fmha_v2", "flash_attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an engine: about one kernel. All but the name are empty unless the engine was built in detail."""

    name: str
    kind: str = ""
    tactic: str = ""
    metadata: str = ""

    @property
    def fuses_attention(self) -> bool:
        """Whether its kernel computes a whole attention."""
        words = f"{self.name} {self.tactic}".lower()
        return any(mark in words for mark in _FUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """An engine's layers in order."""

    layers: tuple[Layer, ...]

    @property
    def kernels(self) -> int:
        """Distinct kernels by name."""
        return len({layer.tactic or layer.name for layer in self.layers})

    @property
    def fused_attentions(self) -> int:
        """Layers that compute a whole attention."""
        return sum(layer.fuses_attention for layer in self.layers)


def read_layer_info(text: str | bytes) -> LayerInfo:
    """Read the inspector's JSON.

    Raises:
        TargetError: if it is no such JSON.
    """
    try:
        raw = msgspec.json.decode(text)
        return LayerInfo(layers=tuple(_layer(each) for each in raw["Layers"]))
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError) as error:
        msg = f"the engine's layers cannot be read: {type(error).__name__} {error}"
        raise TargetError(msg, hint="export them with trtexec --exportLayerInfo or the engine inspector") from error


def _layer(raw: Any) -> Layer:
    if isinstance(raw, str):  # built without detail
        return Layer(name=raw)
    return Layer(
        name=raw["Name"],
        kind=raw.get("LayerType", ""),
        tactic=raw.get("TacticName", ""),
        metadata=raw.get("Metadata", ""),
    )
