"""NVIDIA devices through the driver's own library, libnvidia-ml: no package is needed for it."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

from edgeprune_targets.readings import Reading

_LIBRARY = "libnvidia-ml.so.1"
_TEXT = 96
_SM_CLOCK, _MEMORY_CLOCK = 1, 2  # nvmlClockType_t
_GPU_TEMPERATURE = 0  # nvmlTemperatureSensors_t
_IDLE = 0x1
# nvmlClocksEventReasons: bits of why the clock is not the highest. An idle device is not throttled.
_REASONS = {
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clocks",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What NVML alone tells of a device; the rest is `builders.driver.Device`.

    Attributes:
        driver: version of the driver.
        power_limit_w: that is enforced; None where the device does not tell.
    """

    driver: str
    power_limit_w: float | None = None


class Nvml:
    """The device that CUDA calls 0: that is the first of CUDA_VISIBLE_DEVICES, else the first of all.

    Args:
        library: stands in for libnvidia-ml; None loads it.

    Raises:
        OSError: if there is no library, no driver, or no device.
    """

    name = "NVML"

    def __init__(self, library: Any = None) -> None:
        self._library = library if library is not None else ctypes.CDLL(_LIBRARY)
        _check(self._library.nvmlInit_v2(), "nvmlInit_v2")
        try:
            self._device = self._first()
        except OSError:
            self._library.nvmlShutdown()
            raise

    def gpu(self) -> Gpu:
        """Its driver and its power limit."""
        limit = self._number("nvmlDeviceGetEnforcedPowerLimit")
        return Gpu(
            driver=self._text("nvmlSystemGetDriverVersion"),
            power_limit_w=None if limit is None else limit / 1000,
        )

    def read(self) -> Reading:
        """Clocks, power, temperature and throttle reasons; what the device does not tell is left out."""
        asked = {
            "sm_clock_mhz": (self._number("nvmlDeviceGetClockInfo", _SM_CLOCK), 1),
            "memory_clock_mhz": (self._number("nvmlDeviceGetClockInfo", _MEMORY_CLOCK), 1),
            "power_w": (self._number("nvmlDeviceGetPowerUsage"), 1000),
            "temperature_c": (self._number("nvmlDeviceGetTemperature", _GPU_TEMPERATURE), 1),
        }
        values = {name: value / unit for name, (value, unit) in asked.items() if value is not None}
        return Reading(values, self._throttled())

    def close(self) -> None:
        """Let the library go."""
        self._library.nvmlShutdown()

    def _throttled(self) -> tuple[str, ...]:
        bits = ctypes.c_ulonglong()
        # The older name of the two is the one that every driver has.
        if not self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", self._device, ctypes.byref(bits)):
            return ()
        known = [words for bit, words in _REASONS.items() if bits.value & bit]
        other = bits.value & ~sum(_REASONS) & ~_IDLE
        return (*known, *([f"reason {other:#x}"] if other else []))

    def _first(self) -> ctypes.c_void_p:
        device = ctypes.c_void_p()
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",", 1)[0].strip()
        if chosen.startswith(("GPU-", "MIG-")):
            error = self._library.nvmlDeviceGetHandleByUUID(chosen.encode(), ctypes.byref(device))
        else:
            index = int(chosen) if chosen.isdigit() else -1  # an empty or negative word hides all devices
            error = self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device))
        _check(error, f"device `{chosen}`")
        return device

    def _ask(self, function: str, *arguments: Any) -> bool:
        """Whether the library has this function and the device answers it."""
        found = getattr(self._library, function, None)
        return found is not None and found(*arguments) == 0

    def _number(self, function: str, *kind: int) -> int | None:
        value = ctypes.c_uint()
        answered = self._ask(function, self._device, *(ctypes.c_int(k) for k in kind), ctypes.byref(value))
        return value.value if answered else None

    def _text(self, function: str) -> str:
        text = ctypes.create_string_buffer(_TEXT)
        return text.value.decode(errors="replace") if self._ask(function, text, ctypes.c_uint(_TEXT)) else ""


def find_gpu(library: Any = None) -> Gpu | None:
    """The NVIDIA device that would be used here; None where there is none."""
    try:
        nvml = Nvml(library)
    except OSError:
        return None
    try:
        return nvml.gpu()
    finally:
        nvml.close()


def _check(error: int, what: str) -> None:
    """Check an answer of the library.

    Raises:
        OSError: if it is no success.
    """
    if error:
        msg = f"NVML error {error}: {what}"
        raise OSError(msg)
