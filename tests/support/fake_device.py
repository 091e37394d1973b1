"""A device that is not here: a root folder with what the kernel shows, and a folder of the vendor's programs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

_TRTEXEC = Path(__file__).parent / "fake_trtexec.py"
_TOOLS = "awk bash cat cp cut date df dirname grep mkdir mktemp mv rm sed sha256sum sleep sort stat tail tr".split()
_CLOCKS = """cpu0: Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1728000 CurrentFreq=1728000 IdleStates: WFI=1 c7=1
GPU MinFreq={low}000000 MaxFreq=1020000000 CurrentFreq={low}000000
Active GPU TPCs: 4
EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=3199000000 FreqOverride=1
NV Power Mode: {mode}"""
_TEGRASTATS = (
    "11-22-2026 10:00:00 RAM 2712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) CPU [38%@1497,off] "
    "EMC_FREQ {emc}%@3199 GR3D_FREQ {load}%@[{mhz}] NVDEC off APE 200 cpu@57.125C gpu@{heat}C tj@60.5C cv0@-256C "
    "VDD_IN {milliwatts}mW/8535mW VDD_CPU_GPU_CV 7104mW/4944mW VDD_SOC 3120mW/3659mW"
)
_LINES = [
    _TEGRASTATS.format(emc=5, load=0, mhz=306, heat=50, milliwatts=5000),
    _TEGRASTATS.format(emc=61, load=99, mhz=1020, heat=58.5, milliwatts=16000),
    _TEGRASTATS.format(emc=63, load=98, mhz=1010, heat=59, milliwatts=17000),
]


@dataclass
class FakeDevice:
    """Programs in `folder/bin`, files in `folder/root`; nothing else of this machine is seen but a few small tools."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def log(self) -> Path:
        return self.folder / "trtexec.log"

    def program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def file(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())

    def calls(self, flag: str) -> list[list[str]]:
        """Arguments of each call of trtexec that had this flag."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        return [line.split() for line in lines if flag in line]

    def run(
        self, script: Path, *arguments: str, file_kib: int | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script; with `file_kib`, no file can grow larger, as on a disk that is nearly full."""
        known = {
            "PATH": str(self.bin),
            "HOME": str(self.folder / "home"),
            "EDGEPRUNE_ROOT": str(self.root),
            "FAKE_LOG": str(self.log),
            "DURATION_S": "1",
            "ROUNDS": "2",
        }
        command = [str(shutil.which("bash")), str(script), *arguments]
        if file_kib is not None:
            command = [command[0], "-c", f'ulimit -f {file_kib}; exec "$0" "$@"', *command]
        environment = known | self.environment | environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def _bare(folder: Path, version: str) -> FakeDevice:
    device = FakeDevice(folder, {"FAKE_VERSION": version})
    device.bin.mkdir(parents=True)
    device.root.mkdir()
    for name in _TOOLS:
        (device.bin / name).symlink_to(str(shutil.which(name)))
    place = device.root / "usr" / "src" / "tensorrt" / "bin"
    place.mkdir(parents=True)
    (place / "trtexec").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {_TRTEXEC} "$@"\n', encoding="utf-8")
    (place / "trtexec").chmod(0o755)
    return device


def jetson(folder: Path, version: str = "100300", release: str = "R36 (release), REVISION: 4.3") -> FakeDevice:
    """Orin Nano with JetPack 6.2, in MAXN_SUPER, clocks locked, as its shipped profile says."""
    device = _bare(folder, version)
    device.file("etc/nv_tegra_release", f"# {release}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed\n")
    device.file("proc/device-tree/model", "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0")
    device.file(
        "proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0"
    )
    device.file("proc/meminfo", "MemTotal:        7802968 kB\nMemFree:  100 kB\nMemAvailable:    6291456 kB\n")
    device.file("sys/class/hwmon/hwmon1/oc1_event_cnt", "0\n")
    device.file("sys/class/devfreq/17000000.gpu/min_freq", "1020000000\n")
    device.file("sys/class/devfreq/17000000.gpu/max_freq", "1020000000\n")
    mode(device, "MAXN_SUPER")
    device.program("tegrastats", "\n".join(f"echo '{line}'" for line in _LINES) + "\nexec sleep 30")
    return device


def mode(device: FakeDevice, name: str, low: int = 1020) -> None:
    """Put a Jetson into a power mode, with its GPU's lowest clock at `low` MHz."""
    device.program("nvpmodel", f"echo 'NV Power Mode: {name}'; echo 2")
    device.program("jetson_clocks", f"cat <<'END'\n{_CLOCKS.format(low=low, mode=name)}\nEND")


def desktop(folder: Path, version: str = "110100", name: str = "NVIDIA GeForce RTX 4090") -> FakeDevice:
    """A card of the Ada generation in a PC."""
    device = _bare(folder, version)
    answers = {
        "name": name, "compute_cap": "8.9", "driver_version": "580.65.06", "memory.free": "23000",
    }  # fmt: skip
    cases = "\n".join(f"*--query-gpu={key}\\ *) echo '{value}' ;;" for key, value in answers.items())
    watch = "echo '3, 210, 405, 40, 20.5'; echo '99, 2700, 10501, 61, 300.5'; echo '98, 2700, 10501, 63, [N/A]'"
    device.program("nvidia-smi", f'case "$*" in\n{cases}\n*-lms*) {watch}; exec sleep 30 ;;\nesac')
    return device
