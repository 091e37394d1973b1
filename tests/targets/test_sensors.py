"""What devices tell while they are measured: NVML by a stand-in for its library, tegrastats by lines of real form."""

from __future__ import annotations

import pytest

from edgeprune_targets.nvml import Gpu, Nvml, find_gpu
from edgeprune_targets.processor import Load, LoadMark, ProcessorClock, processor_name
from edgeprune_targets.readings import Reading, Spread
from edgeprune_targets.sensors import Watch, open_sensors
from edgeprune_targets.tegrastats import Tegrastats, parse_tegrastats

NOT_SUPPORTED, NOT_FOUND, NO_DRIVER = 3, 6, 9


class FakeNvml:
    """libnvidia-ml with one device, by its C signatures: results go through pointers, the status is returned."""

    def __init__(self, *, status: int = 0, devices: int = 1, reasons: int = 0, numbers: dict[str, int] | None = None):
        self.status, self.devices, self.reasons = status, devices, reasons
        self.numbers = {"sm": 1_980, "memory": 2_619, "power": 412_345, "temperature": 54, "limit": 700_000}
        self.numbers |= numbers or {}
        self.is_open = 0
        self.asked: list[object] = []

    def nvmlInit_v2(self) -> int:
        self.is_open += self.status == 0
        return self.status

    def nvmlShutdown(self) -> int:
        self.is_open -= 1
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, device) -> int:
        self.asked.append(index.value)
        if index.value >= self.devices:
            return NOT_FOUND
        device._obj.value = 77
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid, device) -> int:
        self.asked.append(uuid)
        device._obj.value = 77
        return 0

    def nvmlSystemGetDriverVersion(self, text, size) -> int:
        assert size.value == len(text)
        text.value = b"575.57.08"
        return 0

    def nvmlDeviceGetEnforcedPowerLimit(self, device, value) -> int:  # noqa: ARG002 - the library's signature
        return self._give("limit", value)

    def nvmlDeviceGetClockInfo(self, device, kind, value) -> int:  # noqa: ARG002 - the library's signature
        return self._give({1: "sm", 2: "memory"}[kind.value], value)

    def nvmlDeviceGetPowerUsage(self, device, value) -> int:  # noqa: ARG002 - the library's signature
        return self._give("power", value)

    def nvmlDeviceGetTemperature(self, device, kind, value) -> int:  # noqa: ARG002 - the library's signature
        assert kind.value == 0
        return self._give("temperature", value)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device, bits) -> int:  # noqa: ARG002 - the library's signature
        bits._obj.value = self.reasons
        return 0

    def _give(self, name: str, value) -> int:
        if self.numbers[name] < 0:
            return NOT_SUPPORTED
        value._obj.value = self.numbers[name]
        return 0


@pytest.fixture(autouse=True)
def all_devices_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_gpu_has_a_driver_and_a_power_limit():
    library = FakeNvml()
    assert find_gpu(library) == Gpu(driver="575.57.08", power_limit_w=700.0)
    assert library.is_open == 0


def test_nvml_reads_clocks_power_and_temperature_in_their_units():
    reading = Nvml(FakeNvml()).read()
    assert reading.values == {
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "power_w": 412.345,
        "temperature_c": 54,
    }
    assert reading.throttled == ()


def test_what_a_device_does_not_tell_is_left_out():
    reading = Nvml(FakeNvml(numbers={"power": -1, "memory": -1})).read()
    assert set(reading.values) == {"sm_clock_mhz", "temperature_c"}
    assert find_gpu(FakeNvml(numbers={"limit": -1})).power_limit_w is None


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0x0, ()),
        (0x1, ()),  # idle
        (0x4, ("power cap",)),
        (0x4 | 0x40 | 0x1, ("power cap", "hardware thermal slowdown")),
        (0x8000, ("reason 0x8000",)),
    ],
)
def test_throttling_is_told_in_words_and_idleness_is_none(bits, words):
    assert Nvml(FakeNvml(reasons=bits)).read().throttled == words


@pytest.mark.parametrize("library", [FakeNvml(status=NO_DRIVER), FakeNvml(devices=0)], ids=["no driver", "no device"])
def test_without_driver_or_device_there_is_no_gpu_and_nothing_stays_open(library):
    assert find_gpu(library) is None
    assert library.is_open == 0


@pytest.mark.parametrize(
    ("visible", "asked"),
    [("2,0", 2), ("GPU-8a1f", b"GPU-8a1f"), ("", 2**32 - 1), ("-1", 2**32 - 1)],
)
def test_the_device_is_the_one_that_cuda_sees_first(visible, asked, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    library = FakeNvml(devices=4)
    found = find_gpu(library)
    assert library.asked == [asked]
    assert (found is None) == (asked == 2**32 - 1)  # an empty or negative word hides all


AGX = (
    "11-05-2025 10:15:32 RAM 6335/62841MB (lfb 5374x4MB) SWAP 0/31421MB (cached 0MB) "
    "CPU [2%@2201,0%@729,off,off] EMC_FREQ 3%@3199 GR3D_FREQ 99%@[1300,1301] NVENC off NVDEC off VIC off APE 174 "
    "cv0@-256C cpu@47.5C tboard@37C soc2@44C tdiode@37.125C soc0@44C cv1@-256C gpu@43C tj@47.5C soc1@45C cv2@-256C "
    "VDD_GPU_SOC 14016mW/13016mW VDD_CPU_CV 802mW/802mW VIN_SYS_5V0 4040mW/4040mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 604mW/604mW NC 0mW/0mW"
)
NANO = (
    "RAM 2715/7620MB (lfb 3x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@1510,0%@1510,0%@1510,0%@1510,0%@729,0%@729] "
    "GR3D_FREQ 0% cpu@48.9C soc2@46.9C soc0@47.6C gpu@46.6C tj@48.9C soc1@47.2C "
    "VDD_IN 4853mW/4853mW VDD_CPU_GPU_CV 560mW/560mW VDD_SOC 1476mW/1476mW"
)
NX = (
    "RAM 4000/15388MB (lfb 100x4MB) CPU [5%@1984,off,off,off,off,off,off,off] EMC_FREQ 10%@3199 GR3D_FREQ 87%@[918] "
    "VIC_FREQ 435 APE 233 CV0@46.5C GPU@51.25C tj@52C VDD_IN 15853mW/9853mW VDD_CPU_GPU_CV 7560mW/560mW "
    "VDD_SOC 3476mW/1476mW"
)
OLD_NANO = (
    "RAM 1903/3956MB (lfb 1x4MB) SWAP 0/1978MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [3%@1479,off,off,off] "
    "EMC_FREQ 5%@1600 GR3D_FREQ 99%@921 APE 25 PLL@31C CPU@33.5C GPU@31C thermal@32.25C "
    "POM_5V_IN 6136/2136 POM_5V_GPU 2041/41 POM_5V_CPU 371/371"
)


def test_agx_orin():
    assert parse_tegrastats(AGX) == {
        "gr3d_percent": 99,
        "gr3d_clock_mhz": 1301,
        "emc_percent": 3,
        "emc_clock_mhz": 3199,
        "cpu_clock_mhz": 1465,
        "vdd_gpu_soc_w": 14.016,
        "vdd_cpu_cv_w": 0.802,
        "vin_sys_5v0_w": 4.04,
        "vddq_vdd2_1v8ao_w": 0.604,
        "cpu_temperature_c": 47.5,
        "tboard_temperature_c": 37,
        "soc2_temperature_c": 44,
        "tdiode_temperature_c": 37.125,
        "soc0_temperature_c": 44,
        "gpu_temperature_c": 43,
        "tj_temperature_c": 47.5,
        "soc1_temperature_c": 45,
        "ram_mb": 6335,
    }


def test_orin_nano_without_root_tells_no_clock_of_gpu_and_memory():
    values = parse_tegrastats(NANO)
    assert {"vdd_in_w": 4.853, "vdd_cpu_gpu_cv_w": 0.56, "vdd_soc_w": 1.476}.items() <= values.items()
    assert values["gr3d_percent"] == 0
    assert not {"gr3d_clock_mhz", "emc_clock_mhz", "emc_percent"} & set(values)


def test_orin_nx():
    wanted = {"vdd_in_w": 15.853, "gr3d_clock_mhz": 918, "emc_clock_mhz": 3199, "gpu_temperature_c": 51.25}
    assert wanted.items() <= parse_tegrastats(NX).items()


def test_boards_before_orin():
    wanted = {"pom_5v_in_w": 6.136, "pom_5v_gpu_w": 2.041, "gr3d_clock_mhz": 921, "emc_clock_mhz": 1600}
    values = parse_tegrastats(OLD_NANO)
    assert wanted.items() <= values.items()
    assert values["ram_mb"] == 1903  # and IRAM and SWAP are no rails
    assert {name for name in values if name.endswith("_w")} == {"pom_5v_in_w", "pom_5v_gpu_w", "pom_5v_cpu_w"}


@pytest.mark.parametrize("line", ["", "\n", "tegrastats: permission denied"])
def test_a_line_of_another_form_holds_nothing(line):
    assert parse_tegrastats(line) == {}


def test_the_last_line_is_the_reading():
    running = Tegrastats([AGX, NX])
    running.close()
    assert running.read() == Reading(parse_tegrastats(NX))


class Counting:
    """A sensor whose values count up."""

    def __init__(self, name: str, values: dict[str, float], throttled: tuple[str, ...] = ()) -> None:
        self.name, self.values, self.throttled, self.looks = name, values, throttled, 0

    def read(self) -> Reading:
        self.looks += 1
        return Reading({name: value * self.looks for name, value in self.values.items()}, self.throttled)

    def close(self) -> None:
        pass


def test_a_watch_looks_at_most_five_times_a_second_and_sums_up():
    seconds = iter([0.0, 0.1, 0.19, 0.2, 0.5])
    gpu, mute = Counting("NVML", {"power_w": 100.0}, ("power cap",)), Counting("cpufreq", {})
    watch = Watch([mute, gpu], clock=lambda: next(seconds))
    for _ in range(5):
        watch()
    seen = watch.summary()
    assert gpu.looks == seen.looks == 3
    assert seen.values == {"power_w": Spread(low=100, median=200, high=300)}
    assert seen.sources == ("NVML",)
    assert seen.throttled == ("power cap",)


def test_sensors_of_this_machine_open_and_close():
    with open_sensors(gpu=False) as sensors:
        watch = Watch(sensors)
        watch()
    assert all(spread.low > 0 for spread in watch.summary().values.values())


STAT = "cpu  {user} 0 0 {idle} 0 0 0 {stolen} 0 0\ncpu0 1 0 0 1 0 0 0 0 0 0\ncpu1 1 0 0 1 0 0 0 0 0 0\nintr 5\n"


def test_load_of_others_is_what_we_did_not_use_ourselves(tmp_path, monkeypatch):
    from collections import namedtuple

    times = namedtuple("times", "user system children_user children_system elapsed")
    (tmp_path / "proc").mkdir()
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    own = iter([times(0, 0, 0, 0, 0), times(9, 0.5, 0.5, 0, 0)])
    monkeypatch.setattr("os.times", lambda: next(own))
    marks = []
    for user, idle, stolen in ((0, 0, 0), (1500, 300, 200)):  # 20 s of two cores: 10 s passed
        (tmp_path / "proc" / "stat").write_text(STAT.format(user=user, idle=idle, stolen=stolen))
        marks.append(LoadMark.now(tmp_path))
    before, after = marks
    load = before.until(after)
    assert (load.others, load.stolen) == (pytest.approx(0.5), pytest.approx(0.2))
    assert before.until(before) is None


def test_a_system_without_counters_tells_no_load(tmp_path):
    assert LoadMark.now(tmp_path) is None
    assert isinstance(LoadMark.now().until(LoadMark.now()), Load | None)


def test_the_processor_by_cpufreq_or_cpuinfo_or_board(tmp_path):
    assert ProcessorClock(tmp_path).read() == Reading()
    assert ProcessorClock(tmp_path).governor() == ""
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson AGX Orin Developer Kit\0")
    assert processor_name(tmp_path) == "NVIDIA Jetson AGX Orin Developer Kit"
    (tmp_path / "proc/cpuinfo").write_text("model name\t: AMD EPYC\ncpu MHz\t\t: 2000.5\n\ncpu MHz\t\t: 2999.5\n")
    assert processor_name(tmp_path) == "AMD EPYC"
    clock = ProcessorClock(tmp_path)
    assert (clock.name, clock.read()) == ("/proc/cpuinfo", Reading({"cpu_clock_mhz": 2500.0}))
    for core, khz in ((0, 1_500_000), (1, 2_500_000)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{khz}\n")
    (tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").write_text("schedutil\n")
    assert (clock.name, clock.read()) == ("cpufreq", Reading({"cpu_clock_mhz": 2000.0}))
    assert clock.governor() == "schedutil"
