"""Jetson boards through tegrastats: one line a look, whose form depends on the board and its JetPack.

Orin NX and Nano name their rails VDD_IN, VDD_CPU_GPU_CV and VDD_SOC; AGX Orin VDD_GPU_SOC, VDD_CPU_CV and VIN_SYS_5V0;
older boards POM_5V_IN and write no unit. Without root rights the clock of the memory, and on some boards that of the
GPU, is left out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune_targets.readings import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

RELEASE_FILE = Path("/etc/nv_tegra_release")

_NUMBER = r"(\d+(?:\.\d+)?)"
_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
# `GR3D_FREQ 99%@[1300,1300]` names a clock for each GPC, older ones `99%@921`; idle ones are 0.
_GPU = re.compile(r"\bGR3D_FREQ (\d+)%(?:@\[?([\d,]+)\]?)?")
_EMC = re.compile(r"\bEMC_FREQ (\d+)%(?:@(\d+))?")
_CORE = re.compile(r"\d+%@(\d+)")
_CORES = re.compile(r"\bCPU \[([^\]]*)\]")
_TEMPERATURE = re.compile(rf"\b([A-Za-z]\w*)@(-?{_NUMBER})C\b")
# Now/average; milliwatts with or without the unit. Every rail's name has an upper case letter first.
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*[A-Z0-9]) (\d+)(?:mW)?/(\d+)(?:mW)?(?= |$)")
_NO_RAIL = frozenset({"NC", "RAM", "SWAP", "IRAM"})
_OFF_C = -200.0  # a sensor of a part that is switched off says -256


def parse_tegrastats(line: str) -> dict[str, float]:
    """Values of one line by name, with the unit in the name; what the line does not hold is left out."""
    values: dict[str, float] = {}
    values.update(_clocks(line))
    for name, now, _average in _RAIL.findall(line):
        if name not in _NO_RAIL:
            values[f"{name.lower()}_w"] = int(now) / 1000
    for name, degrees, _ in _TEMPERATURE.findall(line):
        if float(degrees) > _OFF_C:
            values[f"{name.lower()}_temperature_c"] = float(degrees)
    if found := _RAM.search(line):
        values["ram_mb"] = float(found.group(1))
    return values


def _clocks(line: str) -> Iterator[tuple[str, float]]:
    if found := _GPU.search(line):
        yield "gr3d_percent", float(found.group(1))
        clocks = [int(mhz) for mhz in (found.group(2) or "").split(",") if mhz]
        if clocks:
            yield "gr3d_clock_mhz", float(max(clocks))
    if found := _EMC.search(line):
        yield "emc_percent", float(found.group(1))
        if found.group(2):
            yield "emc_clock_mhz", float(found.group(2))
    if found := _CORES.search(line):
        cores = [int(mhz) for mhz in _CORE.findall(found.group(1))]
        if cores:
            yield "cpu_clock_mhz", sum(cores) / len(cores)


class Tegrastats:
    """A running tegrastats, whose last line is the reading.

    Args:
        lines: stands in for the program's output; None runs it.

    Raises:
        OSError: if it cannot be run.
    """

    name = "tegrastats"

    def __init__(self, lines: Iterable[str] | None = None, *, interval_ms: int = 100) -> None:
        self._last = ""
        self._stop: Callable[[], None] = lambda: None
        if lines is None:
            command = [shutil.which("tegrastats") or "tegrastats", "--interval", str(interval_ms)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            lines, self._stop = process.stdout or (), process.terminate
        self._thread = threading.Thread(target=self._follow, args=(lines,), daemon=True)
        self._thread.start()

    def read(self) -> Reading:
        """What the last line said."""
        values = parse_tegrastats(self._last)
        return Reading(values)

    def close(self) -> None:
        """End the program."""
        self._stop()
        self._thread.join(timeout=2)

    def _follow(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._last = line
