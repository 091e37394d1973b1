"""What a profile may say: every field, what it has to be, and its unit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_CAPABILITY = re.compile(r"\d+\.\d+")
_VERSION = re.compile(r"\d+(\.\d+)+")

STATUSES = ("verified", "derived", "remembered", "assumed", "fitted")
RUNTIMES = ("tensorrt-rtx", "tensorrt")
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")  # what tensorrt_rtx.ComputeCapability can be


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value has to be: in words, and as a question."""

    expected: str
    accepts: Callable[[Any], bool]
    unit: str = ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(accepts, value))


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _number(unit: str) -> Kind:
    return Kind("a number above 0", _is_number, unit)


_WORD = Kind("text in quotes", _is_word)
_WORDS = Kind("a list of texts", _are(_is_word))
# These go into file names and into a shell script.
_NAMED = Kind("lower-case letters, digits, '.', '_' and '-'", _matches(_NAME))
_NAMES = Kind("a list of names in lower-case letters, digits, '.', '_' and '-'", _are(_matches(_NAME)))
_RELEASE = Kind("a version such as '10.3'", _matches(_VERSION))
_RELEASES = Kind("a list of versions such as '10.3', oldest first", _are(_matches(_VERSION)))

# A mode may change these; what all modes share stands on top of the file.
MODE_NUMBERS: dict[str, Kind] = {
    "sms": Kind("a whole number above 0", _is_whole, ""),
    "gpu_clock_mhz": _number("MHz"),
    "memory_bandwidth_gbs": _number("GB/s"),
    "tdp_w": _number("W"),
    "fp32_tflops": _number("TFLOPS"),
    "fp16_dense_tflops": _number("TFLOPS"),
    "fp16_fp32acc_tflops": _number("TFLOPS"),
    "int8_dense_tops": _number("TOPS"),
    "int8_sparse_tops": _number("TOPS"),
    "fp8_dense_tflops": _number("TFLOPS"),
    "fp4_dense_tflops": _number("TFLOPS"),
    "dla_int8_dense_tops": _number("TOPS"),
}
DEVICE_NUMBERS: dict[str, Kind] = {
    "memory_gb": _number("GB"),
    "l2_mb": _number("MB"),
    "dla_count": Kind("a whole number, 0 or more", lambda value: value == 0 or _is_whole(value)),
    "mlp_step": Kind("a whole number above 0", _is_whole),
    "head_size_step": Kind("a whole number above 0", _is_whole),
}
NUMBERS = MODE_NUMBERS | DEVICE_NUMBERS
WORDS: dict[str, Kind] = {
    "name": _NAMED,
    "device": _WORD,
    "architecture": _WORD,
    "compute_capability": Kind("'major.minor'", _matches(_CAPABILITY)),
    "runtime": Kind(f"one of {', '.join(RUNTIMES)}", lambda value: value in RUNTIMES),
    "builders": _NAMES,
    "aliases": _NAMES,
    "tensorrt": _RELEASES,
    "default_tensorrt": _RELEASE,
    "notes": _WORDS,
}
_TABLES = Kind("a list of tables", _are(lambda value: isinstance(value, dict)))
LISTS: dict[str, Kind] = {"modes": _TABLES, "software": _TABLES, "sources": _TABLES}
MODE_WORDS: dict[str, Kind] = {"name": _NAMED, "label": _WORD, "nvpmodel": _WORD, "sources": _TABLES}
SOFTWARE: dict[str, Kind] = {"jetpack": _WORD, "l4t": _WORD, "tensorrt": _RELEASE}
SOURCE: dict[str, Kind] = {
    "status": Kind(f"one of {', '.join(STATUSES)}", lambda value: value in STATUSES),
    "text": _WORD,
    "fields": _WORDS,
}

REQUIRED = ("name", "device", "architecture", "compute_capability", "runtime", "builders")
REQUIRED_NUMBERS = (
    "sms",
    "gpu_clock_mhz",
    "memory_bandwidth_gbs",
    "memory_gb",
    "l2_mb",
    "fp32_tflops",
    "fp16_dense_tflops",
    "fp16_fp32acc_tflops",
)
# Not numbers, yet known from somewhere too.
SOURCED_WORDS = ("tensorrt", "software", "nvpmodel")
