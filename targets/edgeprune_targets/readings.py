"""What a device tells about itself while it is measured, as values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a sensor.

    Attributes:
        values: by name, with the unit in the name.
        throttled: why the device runs below its clock, in words; empty if it does not.
    """

    values: dict[str, float] = field(default_factory=dict)
    throttled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Lowest, middle and highest value that was seen."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensed:
    """What was seen during one measurement.

    Attributes:
        sources: names of the sensors: 'NVML', 'tegrastats', 'cpufreq'.
        looks: how often they were read.
        values: by name, with the unit in the name.
        throttled: reasons that were seen at least once.
    """

    sources: tuple[str, ...] = ()
    looks: int = 0
    values: dict[str, Spread] = field(default_factory=dict)
    throttled: tuple[str, ...] = ()
