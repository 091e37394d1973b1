"""A target: one device in one power mode, with the source of each of its numbers."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

from edgeprune.core.errors import TargetError
from edgeprune_targets._profile_checks import tensorrt_of, version_key

RuntimeName: TypeAlias = Literal["tensorrt-rtx", "tensorrt"]
Status: TypeAlias = Literal["verified", "derived", "remembered", "assumed", "fitted"]

OLDEST_TENSORRT = "8.5"  # what models are lowered for; a device with older ones only is shown and modelled
_DEFAULT_MODE = {"name": "default", "label": "default"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a number comes from, and how sure it is."""

    status: Status
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """One JetPack and the TensorRT that it brings."""

    jetpack: str
    l4t: str
    tensorrt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One device in one power mode.

    Attributes:
        name: what it is asked for by: the profile's name, and '@mode' in any mode but the default.
        profile: name of the profile, equal to the stem of a shipped file.
        description: device and mode in words.
        device: the device as its vendor calls it.
        aliases: other names that mean this profile.
        architecture: GPU family and chip.
        mode: the power mode that all numbers hold for, as a word of the command line.
        power_mode: the same as the vendor writes it.
        nvpmodel: the same as `nvpmodel -q` prints it on a Jetson; empty if unknown.
        modes: all modes of the profile, the default first.
        compute_capability: as 'major.minor'.
        sms: streaming multiprocessors that are on in this mode.
        gpu_clock_mhz: highest GPU clock of the mode.
        memory_bandwidth_gbs: peak, in 10^9 bytes a second.
        memory_gb: memory of the device.
        l2_mb: level-2 cache.
        tdp_w: power budget of the mode.
        fp32_tflops: peak of the plain cores.
        fp16_dense_tflops: tensor cores without sparsity, fp16 accumulation; plain cores where there are none.
        fp16_fp32acc_tflops: tensor cores without sparsity, fp32 accumulation (half on GeForce cards).
        int8_dense_tops: tensor cores without sparsity; None where the device has no such type, as for those below.
        int8_sparse_tops: tensor cores with 2:4 sparsity.
        fp8_dense_tflops: tensor cores without sparsity.
        fp4_dense_tflops: tensor cores without sparsity.
        dla_count: deep-learning accelerators beside the GPU; edgeprune does not use them.
        dla_int8_dense_tops: what they reach together, without sparsity.
        mlp_step: channels of an MLP are cut to multiples of this; None leaves it to `width_alignment`.
        head_size_step: head sizes are cut to multiples of this; None leaves it to `width_alignment`.
        runtime: what runs the engine.
        builders: names of the builders that can make an engine for it.
        tensorrt: TensorRT versions the device can have, oldest first; all that exist on a Jetson, steps elsewhere.
        default_tensorrt: the version that is assumed if none is named.
        software: JetPack versions the device can have, oldest first; empty off Jetson.
        notes: conflicts between sources and what else a person should know.
        sources: where each number comes from, by field name.
    """

    name: str
    profile: str
    description: str
    device: str
    architecture: str
    mode: str
    power_mode: str
    modes: tuple[str, ...]
    compute_capability: str
    sms: int
    gpu_clock_mhz: float
    memory_bandwidth_gbs: float
    memory_gb: float
    l2_mb: float
    fp32_tflops: float
    fp16_dense_tflops: float
    fp16_fp32acc_tflops: float
    runtime: RuntimeName
    builders: tuple[str, ...]
    tensorrt: tuple[str, ...]
    default_tensorrt: str
    aliases: tuple[str, ...] = ()
    nvpmodel: str = ""
    tdp_w: float | None = None
    int8_dense_tops: float | None = None
    int8_sparse_tops: float | None = None
    fp8_dense_tflops: float | None = None
    fp4_dense_tflops: float | None = None
    dla_count: int = 0
    dla_int8_dense_tops: float | None = None
    mlp_step: int | None = None
    head_size_step: int | None = None
    software: tuple[Software, ...] = ()
    notes: tuple[str, ...] = ()
    sources: dict[str, Source] = field(default_factory=dict)

    @property
    def sm(self) -> str:
        """Compute capability as builders write it: 'sm89'."""
        return "sm" + self.compute_capability.replace(".", "")

    @property
    def jetpack(self) -> tuple[str, ...]:
        """JetPack versions the device can have, oldest first; empty off Jetson."""
        return tuple(row.jetpack for row in self.software)

    @property
    def fp32_products(self) -> bool:
        """Whether the runtime multiplies fp32 matrices: TensorRT-RTX does not on Turing."""
        return self.runtime != "tensorrt-rtx" or self.compute_capability != "7.5"

    @property
    def on_jetson(self) -> bool:
        """Whether the engine has to be built on the device itself."""
        return bool(self.software)

    @property
    def buildable(self) -> bool:
        """Whether the device can have a TensorRT that models are lowered for."""
        return version_key(self.tensorrt[-1]) >= version_key(OLDEST_TENSORRT)


def target_in_mode(raw: dict[str, Any], mode: str) -> Target:
    """The target of a checked profile, in its default mode or in the one named.

    Raises:
        TargetError: if the profile has no such mode.
    """
    modes = {each["name"]: each for each in raw.get("modes", [_DEFAULT_MODE])}
    default = next(iter(modes))
    if mode and mode not in modes:
        msg = f"target `{raw['name']}` has no power mode `{mode}`, expected one of {', '.join(modes)}"
        close = difflib.get_close_matches(mode.lower(), modes, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"`{raw['name']}` alone means its mode `{default}`"
        raise TargetError(msg, hint=hint)
    chosen = modes[mode or default]
    versions = tensorrt_of(raw)
    values = {
        **raw,
        **chosen,
        "name": raw["name"] if chosen["name"] == default else f"{raw['name']}@{chosen['name']}",
        "profile": raw["name"],
        "mode": chosen["name"],
        "power_mode": chosen["label"],
        "modes": tuple(modes),
        "tensorrt": versions,
        "default_tensorrt": raw.get("default_tensorrt", versions[-1]),
        "sources": _sources(raw, chosen),
    }
    values["description"] = _description(values, alone=len(modes) == 1)
    values.pop("label")
    return msgspec.convert(values, Target)


def _description(values: dict[str, Any], *, alone: bool) -> str:
    budget = f"{values['tdp_w']:g} W" if "tdp_w" in values else ""
    if alone and "software" not in values:
        return f"{values['device']} at its default power limit" + (f" of {budget}" if budget else "")
    mode = f"{values['device']} in power mode {values['power_mode']}"
    told = not budget or budget.replace(" ", "") in values["power_mode"]
    return mode if told else f"{mode}, {budget}"


def _sources(*tables: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Source by field; what stands nearer to the mode counts."""
    groups = [group for table in tables for group in table.get("sources", ())]
    return {name: {"status": group["status"], "text": group["text"]} for group in groups for name in group["fields"]}
