"""What is known of each runtime: TensorRT by version, and TensorRT-RTX. Operators stand in `operators.toml`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from edgeprune.core.errors import TargetError
from edgeprune_targets.operators import numbers_of

if TYPE_CHECKING:
    from edgeprune_targets.profiles import Target

Family: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]
Typing: TypeAlias = Literal["weak", "strong"]

TOPK_LIMIT = 3840  # ITopKLayer of 10.3, 10.16 and 11.1 (headers); TensorRT-RTX 1.7 fails in the builder above it
_NUMBER = re.compile(r"\d+(\.\d+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One runtime in one version.

    Attributes:
        name: 'tensorrt-10.3', 'tensorrt-rtx-1'.
        family: which library.
        version: as 'major.minor', or 'major' where that decides.
        typing: 'strong' keeps the types of the graph; 'weak' lets the builder choose among the flags it is given.
        opset: highest ONNX opset that its parser is documented for.
        layer_norm: whether its parser has LayerNormalization.
        old_matcher: whether its matcher of attention is taken to want keys turned by one Transpose. TensorRT 10.8 has
            been seen to lose attention in exports that take a detour (NVIDIA/TensorRT issue 4537); TensorRT-RTX 1.7,
            which is near TensorRT 11, fuses both forms, and makes fewer kernels of the detour.
        topk_limit: largest K of a TopK.
        int64: whether it computes in INT64; without, it casts to INT32 and clamps, inputs included.
        bf16: whether it has bfloat16.
        sources: where a fact comes from, by field name.
    """

    name: str
    family: Family
    version: str
    typing: Typing
    opset: int
    layer_norm: bool = True
    old_matcher: bool = True
    topk_limit: int = TOPK_LIMIT
    int64: bool = True
    bf16: bool = True
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """As people write it: 'TensorRT 10.3'."""
        return f"{'TensorRT-RTX' if self.family == 'tensorrt-rtx' else 'TensorRT'} {self.version}"


_DOCS = "docs/operators.md of the parser at this version"
RUNTIMES: tuple[Runtime, ...] = (
    Runtime(
        name="tensorrt-8.5",
        family="tensorrt",
        version="8.5",
        typing="weak",
        opset=17,
        layer_norm=False,
        int64=False,
        bf16=False,
        sources={"opset": _DOCS, "layer_norm": _DOCS, "typing": "NvInfer.h 8.6 has no STRONGLY_TYPED", "int64": _DOCS},
    ),
    Runtime(
        name="tensorrt-8.6",
        family="tensorrt",
        version="8.6",
        typing="weak",
        opset=17,
        int64=False,
        bf16=False,
        sources={"opset": _DOCS, "typing": "NvInfer.h 8.6 has no STRONGLY_TYPED", "int64": _DOCS},
    ),
    Runtime(
        name="tensorrt-10.3",
        family="tensorrt",
        version="10.3",
        typing="strong",
        opset=20,
        sources={"opset": _DOCS, "typing": "NvInfer.h 10.x", "int64": "changelog of 10.0"},
    ),
    Runtime(
        name="tensorrt-10.16",
        family="tensorrt",
        version="10.16",
        typing="strong",
        opset=24,
        sources={"opset": "release notes of 10.13 to 10.16", "typing": "NvInfer.h 10.16"},
    ),
    Runtime(
        name="tensorrt-11",
        family="tensorrt",
        version="11",
        typing="strong",
        opset=25,
        old_matcher=False,
        sources={"opset": "ONNX opset guide of TensorRT 11", "typing": "NvInfer.h 11.1: nothing else is left"},
    ),
    Runtime(
        name="tensorrt-rtx-1",
        family="tensorrt-rtx",
        version="1",
        typing="strong",
        opset=25,
        old_matcher=False,
        sources={"opset": "probed with 1.7.1, opsets 13 to 27", "typing": "probed with 1.7.1", "topk_limit": "probed"},
    ),
)
_RTX = RUNTIMES[-1]
_OLDEST = RUNTIMES[0]


def runtime_for(target: Target, tensorrt: str | None = None, builder: str | None = None) -> Runtime:
    """The runtime that a model is lowered for: the largest known version that is not above the device's.

    Args:
        target: the device.
        tensorrt: version on the device; None for the one its profile assumes.
        builder: 'tensorrt' or 'tensorrt-rtx'; None for the profile's own, or 'tensorrt' where a version is given.

    Raises:
        TargetError: for a version below 8.5, one that the device cannot have, or a word that is no version.
    """
    if builder == "tensorrt-rtx" or (builder is None and tensorrt is None and target.runtime == "tensorrt-rtx"):
        return _RTX
    asked = _meant(tensorrt or target.default_tensorrt, target)
    _check_version(asked, target)
    known = [
        runtime
        for runtime in RUNTIMES
        if runtime.family == "tensorrt" and numbers_of(runtime.version) <= numbers_of(asked)
    ]
    return known[-1]


def _meant(asked: str, target: Target) -> str:
    """The version that is asked for: `11` is 11.4.1 where the device can have no other 11.

    Raises:
        TargetError: if it can have several, or the word is no version.
    """
    if not _NUMBER.fullmatch(asked):
        msg = f"`{asked}` is no version of TensorRT, expected one like 10.3"
        raise TargetError(msg, hint=f"{target.name} can have {', '.join(target.tensorrt)}")
    if "." in asked:
        return asked
    oldest = numbers_of(_OLDEST.version)
    fitting = [
        version for version in target.tensorrt if version.split(".")[0] == asked and numbers_of(version) >= oldest
    ]
    if len(fitting) > 1:
        msg = f"TensorRT {asked} may be any of {', '.join(fitting)} on {target.name}"
        raise TargetError(msg, hint=f"name the one, as in --tensorrt {fitting[0]}")
    return fitting[0] if fitting else asked


def _check_version(asked: str, target: Target) -> None:
    if numbers_of(asked) < numbers_of(_OLDEST.version):
        msg = f"TensorRT {asked} is too old, expected {_OLDEST.version} or later"
        modelled = "" if target.buildable else " only; its latency can be modelled: `edgeprune latency`"
        raise TargetError(msg, hint=f"{target.name} can have {', '.join(target.tensorrt)}{modelled}")
    possible = {numbers_of(version)[:2] for version in target.tensorrt}
    fits = numbers_of(asked)[:2] in possible if target.on_jetson else numbers_of(asked)[:2] >= min(possible)
    if not fits:  # a JetPack brings its TensorRT; on a PC any later one can be installed
        msg = f"{target.name} cannot have TensorRT {asked}"
        raise TargetError(msg, hint=f"it can have {', '.join(target.tensorrt)}")
