"""Device profiles: what edgeprune knows about a target, one TOML file a device.

A profile states one board in one power mode, so that a figure modelled for it means something. Every number of a
shipped profile names its source; a user's own profile may leave the sources out.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from edgeprune.core.errors import TargetError

RuntimeName: TypeAlias = Literal["tensorrt-rtx", "tensorrt"]

_FOLDER = Path(__file__).parent / "profiles"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_BUILDERS = frozenset({"tensorrt-rtx", "tensorrt"})
_POSITIVE = (
    "sms",
    "gpu_clock_mhz",
    "memory_bandwidth_gbs",
    "memory_gb",
    "l2_mb",
    "fp32_tflops",
    "fp16_dense_tflops",
    "fp16_fp32acc_tflops",
    "token_multiple",
    "launch_overhead_us",
)
_SHARES = ("gemm_utilisation", "bandwidth_utilisation")
NUMBERS = _POSITIVE + _SHARES


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One device in one power mode.

    Attributes:
        name: canonical name, equal to the stem of its file.
        description: board and mode in words.
        aliases: other names that mean this profile.
        architecture: GPU family and chip.
        power_mode: the mode that all numbers hold for.
        compute_capability: as 'major.minor'.
        sms: streaming multiprocessors that are on in this mode.
        gpu_clock_mhz: highest GPU clock of the mode.
        memory_bandwidth_gbs: peak, in 10^9 bytes a second.
        memory_gb: memory of the device.
        l2_mb: level-2 cache.
        fp32_tflops: peak of the plain cores.
        fp16_dense_tflops: tensor cores without sparsity, fp16 accumulation.
        fp16_fp32acc_tflops: tensor cores without sparsity, fp32 accumulation (half on GeForce cards).
        runtime: what runs the engine.
        tensorrt: TensorRT versions the device can have, oldest first.
        jetpack: JetPack versions the device can have, oldest first; empty off Jetson.
        builders: names of the builders that can make an engine for it.
        token_multiple: token counts that are multiples of this waste nothing in a tensor core.
        launch_overhead_us: of one kernel in a stream of kernels.
        gemm_utilisation: share of the fp32-accumulate peak that a large matrix product reaches.
        bandwidth_utilisation: share of the peak bandwidth that a streaming kernel reaches.
        sources: where each number comes from, by field name.
    """

    name: str
    description: str
    architecture: str
    power_mode: str
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
    tensorrt: tuple[str, ...]
    builders: tuple[str, ...]
    token_multiple: int
    launch_overhead_us: float
    gemm_utilisation: float
    bandwidth_utilisation: float
    aliases: tuple[str, ...] = ()
    jetpack: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def sm(self) -> str:
        """Compute capability as builders write it: 'sm89'."""
        return "sm" + self.compute_capability.replace(".", "")

    @property
    def fp32_products(self) -> bool:
        """Whether the runtime multiplies fp32 matrices: TensorRT-RTX does not on Turing."""
        return self.runtime != "tensorrt-rtx" or self.compute_capability != "7.5"

    @property
    def on_jetson(self) -> bool:
        """Whether the engine has to be built on the device itself."""
        return bool(self.jetpack)


def target_names() -> tuple[str, ...]:
    """Canonical names of the shipped profiles, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def target_aliases() -> dict[str, str]:
    """Alias -> canonical name, over all shipped profiles."""
    return {alias: name for name in target_names() for alias in _shipped(name).aliases}


def load_target(name_or_path: str | Path) -> Target:
    """Find a target by name, by alias, or by the path of a TOML profile.

    Raises:
        TargetError: if there is no such target, or the profile is wrong.
    """
    word = str(name_or_path)
    if isinstance(name_or_path, Path) or word.endswith(".toml") or "/" in word:
        return read_profile(Path(name_or_path))
    if word in target_names():
        return _shipped(word)
    aliases = target_aliases()
    if word in aliases:
        return _shipped(aliases[word])
    close = difflib.get_close_matches(word, (*target_names(), *aliases), n=1, cutoff=0.5)
    hint = (
        f"did you mean {close[0]}?" if close else "`edgeprune targets` lists them; the path of a TOML profile works too"
    )
    msg = f"unknown target {word!r}: expected one of {', '.join(target_names())}"
    raise TargetError(msg, hint=hint)


def read_profile(path: Path) -> Target:
    """Read and check one TOML profile.

    Raises:
        TargetError: naming the file, the field, what was expected and what was found.
    """
    try:
        raw = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        msg = f"cannot read target profile {path}: {error.strerror or error}"
        raise TargetError(msg, hint="give the name of a target or the path of a TOML profile") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"target profile {path} is not TOML: {error}"
        raise TargetError(msg, hint="`edgeprune targets` lists profiles to copy from") from error
    return _checked(raw, path)


@cache
def _shipped(name: str) -> Target:
    return read_profile(_FOLDER / f"{name}.toml")


def _checked(raw: dict[str, Any], path: Path) -> Target:
    known = {item.name for item in fields(Target)}
    required = {item.name for item in fields(Target) if item.default is MISSING and item.default_factory is MISSING}
    for unknown in sorted(raw.keys() - known):
        close = difflib.get_close_matches(unknown, known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known fields: {', '.join(sorted(known))}"
        msg = f"target profile {path} has an unknown field `{unknown}`"
        raise TargetError(msg, hint=hint)
    if missing := sorted(required - raw.keys()):
        msg = f"target profile {path} lacks {', '.join(f'`{name}`' for name in missing)}"
        raise TargetError(msg, hint="copy a shipped profile and change its numbers")
    try:
        target = msgspec.convert(raw, Target)
    except msgspec.ValidationError as error:
        msg = f"target profile {path}: {error}"
        raise TargetError(msg, hint="`edgeprune targets` lists profiles to copy from") from error
    _check_numbers(target, path)
    _check_words(target, path)
    return target


def _check_numbers(target: Target, path: Path) -> None:
    for name in _POSITIVE:
        if not 0 < getattr(target, name) < float("inf"):
            raise _wrong(path, name, "a number above 0", getattr(target, name))
    for name in _SHARES:
        if not 0 < getattr(target, name) <= 1:
            raise _wrong(path, name, "a share in (0, 1]", getattr(target, name))


def _check_words(target: Target, path: Path) -> None:
    if not _NAME.fullmatch(target.name):  # it goes into file names and into a shell script
        raise _wrong(path, "name", "lower-case letters, digits, '.', '_' and '-'", repr(target.name))
    major, _, minor = target.compute_capability.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise _wrong(path, "compute_capability", "'major.minor'", target.compute_capability)
    if not target.builders or set(target.builders) - _BUILDERS:
        raise _wrong(path, "builders", f"some of {', '.join(sorted(_BUILDERS))}", ", ".join(target.builders) or "none")
    if stray := sorted(target.sources.keys() - {item.name for item in fields(Target)}):
        raise _wrong(path, "sources", "names of fields", ", ".join(stray))


def _wrong(path: Path, name: str, expected: str, found: object) -> TargetError:
    msg = f"target profile {path}: `{name}` is {found}, expected {expected}"
    return TargetError(msg, hint="`edgeprune targets` lists profiles to copy from")
