"""What Linux tells about this machine's processor: its name, its clock, and who else is using it."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from edgeprune_targets.readings import Reading

_CPUINFO_NAME = re.compile(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", re.MULTILINE)
_CPUINFO_MHZ = re.compile(r"^cpu MHz\s*:\s*([0-9.]+)$", re.MULTILINE)
_BOARD = Path("proc/device-tree/model")  # ARM boards name themselves here, and no processor in cpuinfo


def processor_name(root: Path = Path("/")) -> str:
    """The processor in its own words; a board's name where the processor has none."""
    found = _CPUINFO_NAME.search(_text(root / "proc/cpuinfo"))
    board = _text(root / _BOARD).rstrip("\0\n")
    return (found.group(1).strip() if found else board) or platform.processor() or platform.machine() or "processor"


@dataclass(frozen=True, slots=True)
class ProcessorClock:
    """Clocks of the cores: cpufreq where the kernel has it, else /proc/cpuinfo."""

    root: Path = Path("/")

    @property
    def name(self) -> str:
        """Where the clocks come from."""
        return "cpufreq" if self._cpufreq() else "/proc/cpuinfo"

    def read(self) -> Reading:
        """Mean clock of the cores in MHz; nothing where a virtual machine hides it."""
        clocks = self._cpufreq() or [float(mhz) for mhz in _CPUINFO_MHZ.findall(_text(self.root / "proc/cpuinfo"))]
        return Reading({"cpu_clock_mhz": sum(clocks) / len(clocks)} if clocks else {})

    def governor(self) -> str:
        """Name of the clock governor; empty where there is none."""
        return _text(self.root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()

    def close(self) -> None:
        """Nothing is open."""

    def _cpufreq(self) -> list[float]:
        files = (self.root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
        found = (_text(file).strip() for file in files)
        return [int(khz) / 1000 for khz in found if khz.isdigit()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Who used the processor meanwhile, in cores: 0.5 is half of one core all the time.

    Attributes:
        others: all other processes.
        stolen: taken by the host from this virtual machine.
    """

    others: float
    stolen: float


@dataclass(frozen=True, slots=True)
class LoadMark:
    """Counters of the processor at one moment, in seconds; two of them give the load between."""

    total_s: float
    busy_s: float
    stolen_s: float
    own_s: float
    cores: int

    @classmethod
    def now(cls, root: Path = Path("/")) -> LoadMark | None:
        """Read the counters; None where the system has none of this form."""
        lines = _text(root / "proc/stat").splitlines()
        words = lines[0].split() if lines else []
        if not words or words[0] != "cpu" or len(words) < 9:
            return None
        tick = 1 / os.sysconf("SC_CLK_TCK")
        user, nice, system, idle, waiting, irq, soft_irq, stolen = (int(word) * tick for word in words[1:9])
        busy = user + nice + system + irq + soft_irq
        times = os.times()
        cores = sum(1 for line in lines if re.match(r"cpu\d", line))
        own = times.user + times.system + times.children_user + times.children_system
        return cls(busy + idle + waiting + stolen, busy, stolen, own, cores)

    def until(self, later: LoadMark) -> Load | None:
        """Load between this moment and a later one; None if no time passed."""
        passed = later.total_s - self.total_s
        if passed <= 0:
            return None
        others = (later.busy_s - self.busy_s) - (later.own_s - self.own_s)
        cores = self.cores / passed
        return Load(others=max(0.0, others * cores), stolen=max(0.0, (later.stolen_s - self.stolen_s) * cores))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
