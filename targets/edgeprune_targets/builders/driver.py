"""The NVIDIA driver's library by its C names: every machine with a device has it, desktop or Jetson.

`cuda-python` and the CUDA runtime come in one version a CUDA release and would have to match the one that TensorRT
brings; the driver's names have been the same since CUDA 4. TensorRT works in the context that is current here.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from edgeprune.core.errors import TargetError

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_HINT = "run it on a machine with an NVIDIA device and its driver"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU of this machine. `driver`: the highest CUDA that its driver runs, as 'major.minor'."""

    name: str
    compute_capability: str
    driver: str


class Driver:
    """Calls into the library, with a status that is not 0 turned into an error.

    Raises:
        TargetError: if there is no library, or it finds no device.
    """

    def __init__(self) -> None:
        self._library = _library()
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Call one function.

        Raises:
            TargetError: naming the function and the driver's name of what went wrong.
        """
        status = int(getattr(self._library, name)(*arguments))
        if status:
            msg = f"no NVIDIA device here: {name} says {self._error(status)}"
            if name != "cuInit":
                msg = f"the NVIDIA driver fails in {name}: {self._error(status)}"
            raise TargetError(
                msg, hint=_HINT if name == "cuInit" else "free the device's memory, or restart the program"
            )

    def device(self, index: int = 0) -> Device:
        """Facts of one device.

        Raises:
            TargetError: if there is no such device.
        """
        handle, name, number = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(handle), index)
        self.call("cuDeviceGetName", name, len(name), handle)
        numbers = []
        for attribute in (_MAJOR, _MINOR):
            self.call("cuDeviceGetAttribute", ctypes.byref(number), attribute, handle)
            numbers.append(number.value)
        self.call("cuDriverGetVersion", ctypes.byref(number))
        driver = f"{number.value // 1000}.{number.value % 1000 // 10}"
        capability = f"{numbers[0]}.{numbers[1]}"
        return Device(name=name.value.decode("utf-8", "replace"), compute_capability=capability, driver=driver)

    def _error(self, status: int) -> str:
        text = ctypes.c_char_p()
        if self._library.cuGetErrorName(status, ctypes.byref(text)) or text.value is None:
            return f"error {status}"
        return text.value.decode()


@cache
def find_device() -> Device | None:
    """The first device of this machine; None where there is none or its driver does not run."""
    try:
        return Driver().device()
    except TargetError:
        return None


def _library() -> Any:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        msg = f"no NVIDIA device here: the driver's library {name} is absent"
        raise TargetError(msg, hint=_HINT) from error
