"""bench.sh, run for real on devices that are not here."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.bundles import PLAN, SOURCE, make_bundle
from support.fake_device import FakeDevice, desktop, jetson, mode

EXPLICIT = {"--useCudaGraph", "--useSpinWait", "--noDataTransfers"}


@dataclass
class Bench:
    """A device, a folder on it whose engines are built, and what bench.sh made and said the last time."""

    device: FakeDevice
    folder: Path
    measured: dict[str, Any] = field(default_factory=dict)
    said: str = ""

    def run(self, *arguments: str, **environment: str) -> dict[str, Any]:
        done = self.device.run(self.folder / "bench.sh", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        self.said = done.stdout
        self.measured = json.loads((self.folder / "measured.json").read_text(encoding="utf-8"))
        return self.measured


def _built(place: Path, device: FakeDevice, target: str = "jetson-orin-nano", **options: Any) -> Bench:
    folder = make_bundle(place, target, **options)
    assert device.run(folder / "build.sh").returncode == 0
    return Bench(device, folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One run with nothing wrong, for all tests that only look."""
    place = tmp_path_factory.mktemp("shared")
    bench = _built(place, jetson(place / "device"), tensorrt="10.3.0")
    bench.run(ROUNDS="3")
    return bench


@pytest.fixture
def bench(shared: Bench, tmp_path: Path) -> Bench:
    """Built engines on a device of the test's own."""
    folder = tmp_path / "deploy"
    shutil.copytree(shared.folder, folder)
    (folder / "measured.json").unlink()
    return Bench(jetson(tmp_path / "device"), folder)


@pytest.mark.parametrize(
    ("number", "version"),
    [
        ("8502", "8.5.2"),
        ("8602", "8.6.2"),
        ("100300", "10.3.0"),
        ("101602", "10.16.2"),
        ("110100", "11.1.0"),
        ("110401", "11.4.1"),
    ],
)
def test_every_version_times_the_same_thing(tmp_path: Path, number: str, version: str) -> None:
    made = _built(tmp_path, jetson(tmp_path / "device", number))
    measured, folder, device = made.run(), made.folder, made.device
    assert (measured["schema"], measured["kind"], measured["tensorrt"]) == (1, "measured", version)
    layers = json.loads(measured["pruned"]["layers"], strict=False)
    assert ("Metadata" in layers["Layers"][1]) == (version != "8.5.2")
    assert ("I/O Tensors" in layers) == version.startswith("11")
    for call in device.calls("--exportTimes"):
        assert set(call) & EXPLICIT == (set() if version.startswith("11") else EXPLICIT)
    # Without CUDA graphs, which old versions must be told to use, the stand-in would say half as much again.
    assert {name: measured["pruned"][name] for name in ("samples", "p50_ms", "p90_ms", "p99_ms")} == {
        "samples": 10, "p50_ms": 1.25, "p90_ms": 11, "p99_ms": 11,
    }  # fmt: skip
    assert measured["dense"]["p50_ms"] == 2
    for engine, name in (("dense", "dense"), ("pruned", "model")):
        assert measured[engine]["onnx_sha256"] == hashlib.sha256((folder / f"{name}.onnx").read_bytes()).hexdigest()
        assert measured[engine]["engine_sha256"] == hashlib.sha256((folder / f"{name}.engine").read_bytes()).hexdigest()
        assert len(measured[engine]["rounds"]) == 2


def test_it_says_on_what_and_of_what_was_measured(shared: Bench) -> None:
    measured = shared.measured
    assert measured["device"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (measured["l4t"], measured["jetpack"], measured["power_mode"]) == ("36.4.3", "6.2", "MAXN_SUPER")
    assert measured["clocks"] == {"locked": True, "gpu_min_mhz": 1020, "gpu_max_mhz": 1020, "memory_mhz": 3199}
    assert measured["source_sha256"] == SOURCE
    assert measured["plan_sha256"] == hashlib.sha256(PLAN).hexdigest()
    assert (measured["target"], measured["precision"]) == ("jetson-orin-nano-8gb-super", "fp16")
    assert measured["warnings"] == []
    assert measured["overcurrent_events"] == 0
    assert "speedup 1.6, measured" in shared.said
    assert "edgeprune report OUT --measured measured.json" in shared.said


def test_dense_and_pruned_take_turns(shared: Bench) -> None:
    order = [call[0].removeprefix("--loadEngine=") for call in shared.device.calls("--exportTimes")]
    assert order == ["dense.engine", "model.engine", "model.engine", "dense.engine", "dense.engine", "model.engine"]


def test_power_heat_and_clocks_are_of_the_busy_gpu(shared: Bench) -> None:
    sensors = shared.measured["pruned"]["sensors"]
    assert sensors["source"] == "tegrastats"
    assert sensors["busy_samples"] * 3 == sensors["samples"] * 2
    assert (sensors["gpu_mhz_min"], sensors["gpu_mhz_max"], sensors["memory_mhz_mean"]) == (1010, 1020, 3199)
    assert sensors["power_mw"] == {"VDD_IN": 16500, "VDD_CPU_GPU_CV": 7104, "VDD_SOC": 3120}
    assert sensors["temperature_c"] == {"cpu": 57.125, "gpu": 59, "tj": 60.5}  # cv0 is off and says -256


@pytest.mark.parametrize(
    ("line", "busy", "mhz", "memory", "power", "heat"),
    [
        ("RAM 9000/125772MB (lfb 2x4MB) GR3D_FREQ @[314,900,314] cpu@40C VDD_GPU_SOC 4500mW/4500mW",
         0, 900, None, {"VDD_GPU_SOC": 4500}, {"cpu": 40}),
        (("RAM 1234/3964MB (lfb 12x4MB) SWAP 0/1982MB IRAM 0/252kB(lfb 252kB) CPU [10%@1479,off] EMC_FREQ 10%@1600 "
         "GR3D_FREQ 99%@921 PLL@31.5C GPU@46.5C POM_5V_IN 5025/4025"),
         1, 921, 1600, {"POM_5V_IN": 5025}, {"pll": 31.5, "gpu": 46.5}),
        ("RAM 7712/30536MB (lfb 4x4MB) SWAP 0/15268MB (cached 0MB) CPU [2%@729,0%@729] GR3D_FREQ 45% cpu@48C",
         0, None, None, {}, {"cpu": 48}),
    ],
)  # fmt: skip
def test_spellings_of_tegrastats(
    shared: Bench, tmp_path: Path, line: str, busy: int, mhz: int | None, memory: int | None,
    power: dict[str, int], heat: dict[str, float],
) -> None:  # fmt: skip
    (tmp_path / "lines").write_text(line + "\n")
    command = ["awk", "-v", "from=tegrastats", "-f", str(shared.folder / "sensors.awk"), str(tmp_path / "lines")]
    sensors = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (sensors["busy_samples"], sensors["gpu_mhz_mean"], sensors["memory_mhz_mean"]) == (busy, mhz, memory)
    assert (sensors["power_mw"], sensors["temperature_c"]) == (power, heat)


def test_no_watcher_outlives_it(bench: Bench, tmp_path: Path) -> None:
    bench.device.program("tegrastats", f"echo $$ >>{tmp_path}/pids\nexec sleep 30")
    bench.run("--no-profile")
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 4
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_without_tegrastats_or_profile_they_are_null(bench: Bench) -> None:
    (bench.device.bin / "tegrastats").unlink()
    pruned = bench.run("--no-profile")["pruned"]
    assert (pruned["sensors"], pruned["profile"], pruned["layers"]) == (None, None, None)


def test_a_desktop_tells_through_nvidia_smi(tmp_path: Path) -> None:
    measured = _built(tmp_path, desktop(tmp_path / "device"), "rtx-4090").run()
    assert (measured["device"], measured["driver"]) == ("NVIDIA GeForce RTX 4090", "580.65.06")
    assert (measured["power_mode"], measured["jetpack"], measured["clocks"]["locked"]) == ("", "", None)
    sensors = measured["pruned"]["sensors"]
    assert (sensors["source"], sensors["gpu_mhz_mean"], sensors["memory_mhz_mean"]) == ("nvidia-smi", 2700, 10501)
    assert (sensors["power_mw"], sensors["temperature_c"]) == ({"board": 300500}, {"gpu": 63})


def test_the_layer_profile_is_kept_word_for_word(shared: Bench) -> None:
    pruned = shared.measured["pruned"]
    assert json.loads(pruned["profile"])[0] == {"count": 50}
    assert [layer["Name"] for layer in json.loads(pruned["layers"])["Layers"]][2] == "_gemm_mha_v2_myl0_2"
    assert "/blocks.0/attn/qkv/MatMul]\\u001f[ONNX Layer: /blocks.0" in pruned["layers"]


def test_what_spoils_a_timing_is_said_and_kept(bench: Bench) -> None:
    mode(bench.device, 'the "15W"', low=306)
    count = "$EDGEPRUNE_ROOT/sys/class/hwmon/hwmon1/oc1_event_cnt"
    busy = "echo 'x x x GR3D_FREQ 99%@1020 x'; echo 'x x x GR3D_FREQ 99%@612 x'"
    bench.device.program("tegrastats", f"echo $(($(cat {count}) + 1)) >{count}\n{busy}\nexec sleep 30")
    measured = bench.run(FAKE_DRIFT="1.1")
    warnings = "\n".join(measured["warnings"])
    assert measured["power_mode"] == 'the "15W"'
    assert 'the power mode is the "15W", the target\'s is MAXN_SUPER' in warnings
    assert "the GPU clock is not locked" in warnings
    assert "the rounds of dense.engine differ by more than 5 %" in warnings
    assert "the GPU clock fell by more than a tenth while model.engine ran" in warnings
    assert "throttled itself for too much current while it was timed" in warnings
    assert measured["overcurrent_events"] == 4
    assert measured["clocks"]["locked"] is False


def test_pruned_alone(tmp_path: Path) -> None:
    made = _built(tmp_path, jetson(tmp_path / "device"), dense=None)
    measured = made.run("--no-profile")
    assert measured["dense"] is None
    assert measured["pruned"]["p50_ms"] == 1.25
    assert "speedup" not in made.said


@pytest.mark.parametrize(
    ("spoil", "version", "message"),
    [
        (lambda folder: (folder / "model.engine").unlink(), "100300", "there is no model.engine"),
        (lambda folder: (folder / "dense.engine").write_text("x"), "100300", "dense.engine is not what build.sh made"),
        (lambda _: None, "101602", "dense.engine was built by TensorRT 10.3.0, this is 10.16.2"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused(bench: Bench, spoil: Any, version: str, message: str) -> None:
    spoil(bench.folder)
    done = bench.device.run(bench.folder / "bench.sh", FAKE_VERSION=version)
    assert done.returncode == 1
    assert f"error: {message}" in done.stderr
    assert "./build.sh" in done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"FAKE_FAIL": "run"}, "error: trtexec did not time dense.engine (exit status 1)"),
        ({"FAKE_MS": "0,0"}, "error: trtexec wrote no time for dense.engine"),
        ({"ROUNDS": "none"}, "error: ROUNDS is 'none', expected a whole number of 1 or more"),
        ({"DURATION_S": "0"}, "error: DURATION_S is '0', expected a whole number of 1 or more"),
    ],
)
def test_a_failed_run_leaves_no_half_of_a_file(bench: Bench, environment: dict[str, str], message: str) -> None:
    (bench.folder / "measured.json").write_text("of before")
    before = {path.name for path in bench.folder.iterdir()}
    done = bench.device.run(bench.folder / "bench.sh", **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert {path.name for path in bench.folder.iterdir()} - before <= {"dense.bench.log"}
    assert (bench.folder / "measured.json").read_text() == "of before"


def test_a_disk_that_fills_up_leaves_the_numbers_of_before(bench: Bench) -> None:
    (bench.folder / "measured.json").write_text("of before")
    done = bench.device.run(bench.folder / "bench.sh", file_kib=4)
    assert done.returncode == 1
    assert "error: cannot write measured.json\nhint: free some disk space" in done.stderr
    assert (bench.folder / "measured.json").read_text() == "of before"
    assert not (bench.folder / "measured.json.part").exists()
