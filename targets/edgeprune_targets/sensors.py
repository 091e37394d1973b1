"""Sensors of the machine that is measured: they are read between runs, never during one."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack, contextmanager, suppress
from statistics import median
from typing import TYPE_CHECKING, Protocol

from edgeprune_targets.nvml import Nvml
from edgeprune_targets.processor import ProcessorClock
from edgeprune_targets.readings import Sensed, Spread
from edgeprune_targets.tegrastats import RELEASE_FILE, Tegrastats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgeprune_targets.readings import Reading

# NVML's power is a mean over longer than this, and tegrastats writes a line in half of it.
_EVERY_S = 0.2


class Sensor(Protocol):
    """Something that tells about the machine."""

    @property
    def name(self) -> str:
        """Where the values come from."""
        ...

    def read(self) -> Reading:
        """Look once; quick, and never fails."""
        ...

    def close(self) -> None:
        """Stop."""
        ...


class Watch:
    """Reads sensors when it is called, at most every 0.2 s, and sums up what it saw.

    Args:
        sensors: to read.
        clock: in seconds.
    """

    def __init__(self, sensors: Sequence[Sensor], clock: Callable[[], float] = time.monotonic) -> None:
        self._sensors, self._clock = tuple(sensors), clock
        self._due = float("-inf")
        self._looks = 0
        self._sources: dict[str, None] = {}
        self._values: dict[str, list[float]] = {}
        self._throttled: dict[str, None] = {}

    def __call__(self) -> None:
        """Look, unless the last look was just now."""
        now = self._clock()
        if now < self._due or not self._sensors:
            return
        self._due = now + _EVERY_S
        self._looks += 1
        for sensor in self._sensors:
            reading = sensor.read()
            if reading.values or reading.throttled:  # a sensor that tells nothing is no source
                self._sources[sensor.name] = None
            self._throttled.update(dict.fromkeys(reading.throttled))
            for name, value in reading.values.items():
                self._values.setdefault(name, []).append(value)

    def summary(self) -> Sensed:
        """What was seen so far."""
        spreads = {n: Spread(low=min(v), median=median(v), high=max(v)) for n, v in self._values.items()}
        return Sensed(sources=tuple(self._sources), looks=self._looks, values=spreads, throttled=tuple(self._throttled))


@contextmanager
def open_sensors(*, gpu: bool) -> Iterator[tuple[Sensor, ...]]:
    """Open the sensors that are here, and close them at the end.

    Args:
        gpu: whether an NVIDIA device is measured, so that its sensors count too.
    """
    with ExitStack() as stack:
        sensors: list[Sensor] = []
        jetson = RELEASE_FILE.exists() and shutil.which("tegrastats") is not None
        kinds: list[Callable[[], Sensor]] = [Tegrastats] if jetson else [ProcessorClock]
        if gpu:
            kinds.append(Nvml)
        for kind in kinds:
            with suppress(OSError):
                sensor = kind()
                stack.callback(sensor.close)
                sensors.append(sensor)
        yield tuple(sensors)
