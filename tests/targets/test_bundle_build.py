"""build.sh, run for real on devices that are not here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from support.bundles import make_bundle
from support.fake_device import FakeDevice, desktop, jetson, mode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bundle(tmp_path)


@pytest.fixture
def device(tmp_path: Path) -> FakeDevice:
    return jetson(tmp_path / "device")


def _left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if ".engine" in path.name or path.name.endswith(".part")}


@pytest.mark.parametrize(
    ("number", "version", "typing", "only_build", "level"),
    [
        ("8502", "8.5.2", {"--fp16"}, "--buildOnly", False),
        ("8602", "8.6.2", {"--fp16"}, "--skipInference", True),
        ("100300", "10.3.0", {"--stronglyTyped"}, "--skipInference", True),
        ("101602", "10.16.2", {"--stronglyTyped"}, "--skipInference", True),
        ("110100", "11.1.0", set(), "--skipInference", True),
        ("110401", "11.4.1", set(), "--skipInference", True),
    ],
)
def test_each_version_gets_flags_that_it_knows(
    folder: Path, tmp_path: Path, number: str, version: str, typing: set[str], only_build: str, level: bool
) -> None:
    device = jetson(tmp_path / "device", number)
    done = device.run(folder / "build.sh")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    builds = device.calls("--onnx")
    assert [call[0] for call in builds] == ["--onnx=dense.onnx", "--onnx=model.onnx"]
    for call in builds:
        assert {"--fp16", "--stronglyTyped"} & set(call) == typing
        assert only_build in call
        assert ("--builderOptimizationLevel=3" in call) == level
        assert "--memPoolSize=workspace:2048" in call
    record = json.loads((folder / "model.engine.json").read_text(encoding="utf-8"))
    assert (record["tensorrt"], record["device"][:27]) == (version, "NVIDIA Jetson Orin Nano Eng")
    assert record["onnx_sha256"] == hashlib.sha256(b"pruned").hexdigest()
    assert record["engine_sha256"] == hashlib.sha256((folder / "model.engine").read_bytes()).hexdigest()
    assert _left(folder) == {"model.engine", "model.engine.json", "dense.engine", "dense.engine.json"}


def test_fp32_asks_weak_typing_for_no_fp16(tmp_path: Path) -> None:
    device = jetson(tmp_path / "device", "8602")
    assert device.run(make_bundle(tmp_path, precision="fp32") / "build.sh").returncode == 0
    assert "--fp16" not in device.calls("--onnx")[0]


@pytest.mark.parametrize(("number", "held"), [("8502", True), ("8602", True), ("100300", False)])
def test_weak_typing_is_held_to_fp32_where_fp16_would_overflow(tmp_path: Path, number: str, held: bool) -> None:
    device = jetson(tmp_path / "device", number)
    folder = make_bundle(tmp_path, fp32_layers={"model": ("/norm/Pow", "/norm/Sqrt"), "dense": ()})
    done = device.run(folder / "build.sh")
    assert done.returncode == 0, done.stderr
    dense, pruned = device.calls("--onnx")
    words = {"--precisionConstraints=obey", "--layerPrecisions=/norm/Pow:fp32,/norm/Sqrt:fp32"}
    assert words & set(pruned) == (words if held else set())
    assert not [word for word in dense if "recision" in word]
    assert "model.fp32.txt" in (folder / "SHA256SUMS").read_text(encoding="utf-8")


def test_the_timing_cache_is_kept_in_the_users_folder_by_version_and_device(folder: Path, device: FakeDevice) -> None:
    assert device.run(folder / "build.sh").returncode == 0
    cache = [path.name for path in (device.folder / "home" / ".cache" / "edgeprune").iterdir()]
    assert cache == ["timing-10.3.0-NVIDIA-Jetson-Orin-Nano-Engineering-Reference-Developer-Kit-Super.cache"]


def test_without_a_cache_folder_it_builds_and_says_so(folder: Path, device: FakeDevice) -> None:
    done = device.run(folder / "build.sh", HOME="/dev/null")
    assert done.returncode == 0
    assert "no timing cache" in done.stderr
    assert not device.calls("--timingCacheFile")


def test_what_is_up_to_date_is_not_built_again(folder: Path, device: FakeDevice) -> None:
    assert device.run(folder / "build.sh").returncode == 0
    done = device.run(folder / "build.sh")
    assert "model.engine is up to date" in done.stderr
    assert len(device.calls("--onnx")) == 2
    (folder / "model.engine").write_text("another")
    assert device.run(folder / "build.sh").returncode == 0
    assert len(device.calls("--onnx")) == 3
    assert device.run(folder / "build.sh", FAKE_VERSION="101602").returncode == 0
    assert len(device.calls("--onnx")) == 5
    assert device.run(folder / "build.sh", "--rebuild", FAKE_VERSION="101602").returncode == 0
    assert len(device.calls("--onnx")) == 7


@pytest.mark.parametrize(
    ("way", "message", "hint"),
    [
        ("memory", "OutOfMemory", "there was too little memory"),
        ("killed", "exit status 137", "there was too little memory"),
        ("disk", "No space left on device", "the disk is full: free some space"),
        (
            "operator",
            "No importer registered for op: LayerNormalization",
            "TensorRT 10.3.0 lacks an operator of the graph: compile with --tensorrt 10.3",
        ),
        ("option", "Unknown option: --timingCacheFile", "this trtexec does not know a flag"),
        ("silent", "trtexec did not build dense.onnx (exit status 0)", "read dense.build.log"),
    ],
)
def test_a_failing_build_says_why_and_leaves_no_engine(
    folder: Path, device: FakeDevice, way: str, message: str, hint: str
) -> None:
    done = device.run(folder / "build.sh", FAKE_FAIL=way)
    assert done.returncode == 1
    assert message in done.stderr
    assert f"hint: {hint}" in done.stderr
    assert _left(folder) == set()


def test_an_old_engine_does_not_outlive_a_failed_build(folder: Path, device: FakeDevice) -> None:
    assert device.run(folder / "build.sh").returncode == 0
    assert device.run(folder / "build.sh", "--rebuild", FAKE_FAIL="memory").returncode == 1
    assert not (folder / "dense.engine").exists()


@pytest.mark.parametrize("name", ["model.onnx", "target.json", "common.sh"])
def test_a_damaged_file_stops_it(folder: Path, device: FakeDevice, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    done = device.run(folder / "build.sh")
    assert done.returncode == 1
    assert "error: a file of this folder is damaged or missing" in done.stderr
    assert name in done.stderr


def test_without_trtexec_it_says_where_to_get_it(folder: Path, device: FakeDevice) -> None:
    (device.root / "usr/src/tensorrt/bin/trtexec").unlink()
    done = device.run(folder / "build.sh")
    assert done.returncode == 1
    assert "error: trtexec is neither in /usr/src/tensorrt/bin nor on PATH" in done.stderr
    assert "error: TRTEXEC is /absent" in device.run(folder / "build.sh", TRTEXEC="/absent").stderr


def test_a_trtexec_that_cannot_start_is_told(folder: Path, device: FakeDevice) -> None:
    device.program("broken", "echo 'error while loading shared libraries: libnvinfer.so.10' >&2; exit 127")
    done = device.run(folder / "build.sh", TRTEXEC=str(device.bin / "broken"))
    assert "does not say its TensorRT version: error while loading shared libraries: libnvinfer.so.10" in done.stderr
    assert "LD_LIBRARY_PATH" in done.stderr


@pytest.mark.parametrize("number", ["8401", "7234", "8.4.1"])
def test_an_old_tensorrt_is_named(folder: Path, device: FakeDevice, number: str) -> None:
    device.program("old", f"echo '&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] # trtexec --help'")
    done = device.run(folder / "build.sh", TRTEXEC=str(device.bin / "old"))
    assert done.returncode == 1
    assert "is too old: 8.5 or later is needed" in done.stderr


@pytest.mark.parametrize(
    ("model", "chip", "message"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", "234", "the target is jetson-orin-nano-8gb-super"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "234", "the target is jetson-orin-nano"),
        ("NVIDIA Jetson Xavier NX Developer Kit", "194", "compute capability 7.2, the target"),
    ],
)
def test_another_board_is_refused_unless_asked_for(
    folder: Path, device: FakeDevice, model: str, chip: str, message: str
) -> None:
    device.file("proc/device-tree/model", model + "\0")
    device.file("proc/device-tree/compatible", f"nvidia,something\0nvidia,tegra{chip}\0")
    done = device.run(folder / "build.sh")
    assert done.returncode == 1
    assert message in done.stderr
    assert not device.calls("--onnx")
    asked = device.run(folder / "build.sh", "--any-device")
    assert asked.returncode == 0
    assert f"warning: this is {model}" in asked.stderr


def test_a_graph_of_a_newer_tensorrt_is_refused_and_one_of_an_older_family_warned_of(tmp_path: Path) -> None:
    device = jetson(tmp_path / "device", "100300")
    newer = device.run(make_bundle(tmp_path / "a", tensorrt="10.16.2") / "build.sh")
    assert newer.returncode == 1
    assert "lowered for TensorRT 10.16.2, this device has 10.3.0" in newer.stderr
    older = device.run(make_bundle(tmp_path / "b", tensorrt="8.6.2") / "build.sh")
    assert older.returncode == 0
    assert "warning: model.onnx was lowered for TensorRT 8.6.2" in older.stderr
    same = device.run(make_bundle(tmp_path / "c", tensorrt="10.3.0") / "build.sh")
    assert "warning" not in same.stderr


def test_another_power_mode_and_loose_clocks_are_warned_of(folder: Path, device: FakeDevice) -> None:
    mode(device, "15W", low=306)
    done = device.run(folder / "build.sh")
    assert done.returncode == 0
    assert "warning: the power mode is 15W, the target's is MAXN_SUPER" in done.stderr
    assert "warning: the GPU clock is not locked (306 to 1020 MHz)" in done.stderr


def test_clocks_are_read_from_the_kernel_without_root(folder: Path, device: FakeDevice) -> None:
    device.program("jetson_clocks", "echo 'Error: must be run as root' >&2; exit 1")
    assert "warning" not in device.run(folder / "build.sh").stderr
    device.file("sys/class/devfreq/17000000.gpu/min_freq", "306000000\n")
    assert "not locked (306 to 1020 MHz)" in device.run(folder / "build.sh").stderr


def test_a_jetpack_that_the_target_cannot_have_is_warned_of(folder: Path, tmp_path: Path) -> None:
    device = jetson(tmp_path / "device", release="R36 (release), REVISION: 3.0")
    assert (
        "warning: this device has JetPack 6.0, the target was described for" in device.run(folder / "build.sh").stderr
    )


def test_too_little_memory_stops_it_before_the_build(folder: Path, device: FakeDevice) -> None:
    device.file("proc/meminfo", "MemTotal: 3900000 kB\nMemAvailable: 1048576 kB\n")
    done = device.run(folder / "build.sh")
    assert done.returncode == 1
    assert "error: 1024 MiB of memory are free, about 1280 MiB are needed to build" in done.stderr
    assert "WORKSPACE_MIB" in done.stderr
    assert not device.calls("--onnx")
    assert device.run(folder / "build.sh", "--low-memory").returncode == 0
    assert "--memPoolSize=workspace:256" in device.calls("--onnx")[0]


def test_the_workspace_fits_the_free_memory(folder: Path, device: FakeDevice) -> None:
    device.file("proc/meminfo", f"MemAvailable: {1600 * 1024} kB\n")
    assert device.run(folder / "build.sh").returncode == 0
    assert "--memPoolSize=workspace:576" in device.calls("--onnx")[0]
    assert device.run(folder / "build.sh", "--rebuild", WORKSPACE_MIB="512").returncode == 0
    assert "--memPoolSize=workspace:512" in device.calls("--onnx")[-1]
    assert device.run(folder / "build.sh", WORKSPACE_MIB="2048").returncode == 1
    assert "WORKSPACE_MIB is 'much'" in device.run(folder / "build.sh", WORKSPACE_MIB="much").stderr


def test_a_full_disk_stops_it_before_the_build(folder: Path, device: FakeDevice) -> None:
    device.program(
        "df", "echo 'Filesystem 1024-blocks Used Available Capacity Mounted'; echo '/dev/x 99 98 20480 99% /'"
    )
    done = device.run(folder / "build.sh")
    assert done.returncode == 1
    assert "error: 20 MiB of disk are free here, about 64 MiB are needed" in done.stderr
    assert not device.calls("--onnx")


def test_throttling_for_too_much_current_is_warned_of(folder: Path, device: FakeDevice) -> None:
    device.file("sys/class/hwmon/hwmon1/oc1_event_cnt", "7\n")
    assert "warning: the board throttled itself 7 times" in device.run(folder / "build.sh").stderr


def test_a_desktop_is_known_by_its_gpu(tmp_path: Path) -> None:
    device = desktop(tmp_path / "device")
    folder = make_bundle(tmp_path, "rtx-4090")
    done = device.run(folder / "build.sh")
    assert done.returncode == 0, done.stderr
    assert "device: NVIDIA GeForce RTX 4090, TensorRT 11.1.0" in done.stderr
    assert "warning" not in done.stderr
    other = device.run(make_bundle(tmp_path / "b", "rtx-3090") / "build.sh")
    assert other.returncode == 1
    assert "compute capability 8.9, the target rtx-3090 has 8.6" in other.stderr


@pytest.mark.parametrize(
    ("name", "target", "same"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090", True),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "rtx-4090", False),
        ("NVIDIA L40S", "l4", False),
        ("NVIDIA L4", "l4", True),
        ("NVIDIA GeForce RTX 4060 Ti", "rtx-4060ti", True),
        ("NVIDIA GeForce RTX 4060 Ti", "rtx-4060", False),
        ("NVIDIA GeForce RTX 4070 SUPER", "rtx-4070", False),
        ("NVIDIA GeForce RTX 4050 Laptop GPU", "rtx-4050-laptop", True),
    ],
)
def test_another_card_of_the_same_capability_is_warned_of(tmp_path: Path, name: str, target: str, same: bool) -> None:
    device = desktop(tmp_path / "device", name=name)
    done = device.run(make_bundle(tmp_path, target) / "build.sh")
    assert done.returncode == 0, done.stderr
    assert (f"warning: this is {name}, the target is {target}" in done.stderr) != same


def test_another_module_of_the_same_board_is_warned_of(folder: Path, device: FakeDevice) -> None:
    device.file("proc/meminfo", "MemTotal:        3963000 kB\nMemAvailable:    3800000 kB\n")
    done = device.run(folder / "build.sh")
    assert done.returncode == 0
    assert "warning: this board has 3870 MiB of memory, the target jetson-orin-nano-8gb-super has 8192" in done.stderr


def test_help_and_unknown_options(folder: Path, device: FakeDevice) -> None:
    assert device.run(folder / "build.sh", "--help").stdout.startswith("Build the TensorRT engines of this folder")
    done = device.run(folder / "build.sh", "--fast")
    assert done.returncode == 1
    assert "error: unknown option --fast" in done.stderr
