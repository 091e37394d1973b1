"""Memory, a stream and a clock on a device: the few calls that running an engine needs."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

import numpy as np

from edgeprune.core.errors import TargetError
from edgeprune_targets.builders.driver import Device, Driver


class Cuda:
    """The first device's primary context, which TensorRT shares, and one stream in it.

    Raises:
        TargetError: if there is no device.
    """

    def __init__(self) -> None:
        self._driver = Driver()
        self.device: Device = self._driver.device()
        self._handle = ctypes.c_int()
        self._driver.call("cuDeviceGet", ctypes.byref(self._handle), 0)
        context = ctypes.c_void_p()
        self._driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._handle)
        self._driver.call("cuCtxSetCurrent", context)
        self.stream = self._new("cuStreamCreate", 1)  # CU_STREAM_NON_BLOCKING
        self._start, self._end = self._new("cuEventCreate", 0), self._new("cuEventCreate", 0)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the device.

        Raises:
            TargetError: if it has no room.
        """
        address = ctypes.c_uint64()
        self._driver.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Give the memory at `address` back."""
        self._give_back("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Copy an array that lies in one piece to the device; it is there when this returns."""
        self._copy("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), _pointer(array), array.nbytes)

    def download(self, array: np.ndarray[Any, Any], address: int) -> None:
        """Fill an array that lies in one piece from the device."""
        self._copy("cuMemcpyDtoHAsync_v2", _pointer(array), ctypes.c_uint64(address), array.nbytes)

    def synchronize(self) -> None:
        """Wait until the stream is empty.

        Raises:
            TargetError: if what ran in it failed.
        """
        self._driver.call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def start_clock(self) -> None:
        """Note the time at this place of the stream."""
        self._driver.call("cuEventRecord", ctypes.c_void_p(self._start), ctypes.c_void_p(self.stream))

    def stop_clock_ms(self) -> float:
        """Milliseconds since `start_clock`, by the device's own clock; waits for the stream."""
        elapsed = ctypes.c_float()
        start, end = ctypes.c_void_p(self._start), ctypes.c_void_p(self._end)
        self._driver.call("cuEventRecord", end, ctypes.c_void_p(self.stream))
        self._driver.call("cuEventSynchronize", end)
        self._driver.call("cuEventElapsedTime", ctypes.byref(elapsed), start, end)
        return elapsed.value

    def close(self) -> None:
        """Give stream, events and context back."""
        self._give_back("cuEventDestroy_v2", ctypes.c_void_p(self._start))
        self._give_back("cuEventDestroy_v2", ctypes.c_void_p(self._end))
        self._give_back("cuStreamDestroy_v2", ctypes.c_void_p(self.stream))
        self._give_back("cuDevicePrimaryCtxRelease_v2", self._handle)

    def _give_back(self, function: str, *arguments: Any) -> None:
        """After a kernel faulted every call says so again: what went wrong was said by the call that met it first."""
        with suppress(TargetError):
            self._driver.call(function, *arguments)

    def _copy(self, function: str, to: Any, source: Any, size: int) -> None:
        """In the stream, behind what was put there before: the plain copies do not wait for a stream of our own."""
        self._driver.call(function, to, source, ctypes.c_size_t(size), ctypes.c_void_p(self.stream))
        self.synchronize()

    def _new(self, function: str, flags: int) -> int:
        handle = ctypes.c_void_p()
        self._driver.call(function, ctypes.byref(handle), flags)
        return handle.value or 0


def _pointer(array: np.ndarray[Any, Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
