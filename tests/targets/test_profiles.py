"""Profiles: names, aliases, modes, lists of targets, a profile of one's own."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from edgeprune.core.errors import TargetError
from edgeprune_targets.profiles import (
    load_target,
    load_targets,
    mode_names,
    profile_text,
    read_profile,
    split_targets,
    target_aliases,
    target_names,
)
from edgeprune_targets.runtimes import runtime_for


def test_jetson_orin_means_a_stated_board_and_mode() -> None:
    target = load_target("jetson-orin")
    assert (target.name, target.sm, target.mode) == ("jetson-agx-orin-64gb", "sm87", "maxn")
    assert target.description == "Jetson AGX Orin 64GB in power mode MAXN, 60 W"
    assert target.on_jetson
    assert target.default_tensorrt == "10.3.0"
    assert {row.jetpack for row in target.software if row.tensorrt == "10.3.0"} == {"6.1", "6.2"}


def test_names_of_the_first_release_still_mean_the_same() -> None:
    meant = {
        "jetson-orin-nano": "jetson-orin-nano-8gb-super",
        "jetson-orin-nx": "jetson-orin-nx-16gb",
        "jetson-thor": "jetson-thor-t5000",
        "rtx-2080-ti": "rtx-2080ti",
        "a100": "a100-40",
    }
    assert {alias: load_target(alias).name for alias in meant} == meant


@pytest.mark.parametrize(
    ("asked", "name", "sms", "mhz", "bandwidth"),
    [
        ("jetson-agx-orin-64gb", "jetson-agx-orin-64gb", 16, 1300, 204.8),
        ("jetson-agx-orin-64gb@maxn", "jetson-agx-orin-64gb", 16, 1300, 204.8),
        ("jetson-agx-orin-64gb@30w", "jetson-agx-orin-64gb@30w", 8, 612, 204.8),
        ("jetson-orin@15w", "jetson-agx-orin-64gb@15w", 6, 420, 136.5),
        ("rtx-4090@default", "rtx-4090", 128, 2520, 1008),
    ],
)
def test_a_mode_stands_behind_the_name(asked: str, name: str, sms: int, mhz: float, bandwidth: float) -> None:
    target = load_target(asked)
    assert (target.name, target.sms, target.gpu_clock_mhz, target.memory_bandwidth_gbs) == (name, sms, mhz, bandwidth)
    assert load_target(target.name) == target


def test_a_mode_has_its_own_sources_and_shares_the_others() -> None:
    full, half = load_target("jetson-orin"), load_target("jetson-orin@50w")
    assert (full.sources["gpu_clock_mhz"].status, half.sources["gpu_clock_mhz"].status) == ("verified", "remembered")
    assert full.sources["l2_mb"] == half.sources["l2_mb"]


def test_the_default_mode_is_the_first() -> None:
    assert mode_names("jetson-orin") == mode_names("jetson-orin@15w") == ("maxn", "50w", "30w", "15w")
    assert mode_names("rtx-4090") == ("default",)


def test_a_device_with_old_tensorrt_only_is_modelled_and_not_built_for() -> None:
    too_old = {name for name in target_names() if not load_target(name).buildable}
    assert too_old == {"jetson-nano", "jetson-tx2"}
    for name in too_old:
        assert any("can be shown and modelled, not built for" in note for note in load_target(name).notes)
        with pytest.raises(TargetError, match="too old"):
            runtime_for(load_target(name))


@pytest.mark.parametrize("name", sorted(set(target_names()) - {"jetson-nano", "jetson-tx2"}))
def test_there_is_a_runtime_for_the_version_that_is_assumed(name: str) -> None:
    target = load_target(name)
    assert runtime_for(target).family == target.runtime
    assert runtime_for(target, target.default_tensorrt).family == "tensorrt"


def test_tensorrt_rtx_runs_where_it_has_the_compute_capability() -> None:
    with_rtx = {load_target(name).compute_capability for name in target_names() if "tensorrt-rtx" in _builders(name)}
    without = {load_target(name).compute_capability for name in target_names() if "tensorrt-rtx" not in _builders(name)}
    assert with_rtx == {"7.5", "8.0", "8.6", "8.9", "12.0", "12.1"}
    assert without == {"5.3", "6.2", "7.2", "8.7", "9.0", "11.0"}


def _builders(name: str) -> tuple[str, ...]:
    return load_target(name).builders


def test_every_row_of_the_devices_is_a_mode(shared: Path) -> None:
    """Against the table that the profiles were written from."""
    with (shared / "data" / "devices.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["target_id"] for row in rows} == set(target_names())
    columns = {
        "sms": "sm_count",
        "memory_bandwidth_gbs": "mem_bw_gbs",
        "l2_mb": "l2_mb",
        "memory_gb": "memory_gb",
        "fp32_tflops": "fp32_tflops",
        "fp16_dense_tflops": "fp16_dense_tflops",
        "fp16_fp32acc_tflops": "fp16_dense_fp32acc_tflops",
        "int8_dense_tops": "int8_dense_tops",
        "int8_sparse_tops": "int8_sparse_tops",
        "fp8_dense_tflops": "fp8_dense_tflops",
        "fp4_dense_tflops": "fp4_dense_tflops",
        "tdp_w": "tdp_w",
        "dla_count": "dla_count",
    }
    differing = []
    for row in rows:
        modes = [load_target(f"{row['target_id']}@{mode}") for mode in mode_names(row["target_id"])]
        here = next(
            mode
            for mode in reversed(modes)
            if (mode.gpu_clock_mhz, mode.compute_capability)
            == (float(row["gpu_max_clock_mhz"]), row["compute_capability"])
        )
        for field, column in columns.items():
            if getattr(here, field) != (float(row[column]) if row[column] else None):
                differing.append((here.name, field))
    assert not differing


def test_a_list_names_each_once() -> None:
    assert split_targets(["rtx-4090,rtx-3090", "jetson-orin", "rtx-3090"]) == ("rtx-4090", "rtx-3090", "jetson-orin")
    assert split_targets([" rtx-4090 , t4"]) == ("rtx-4090", "t4")
    assert split_targets([]) == ()


def test_a_device_under_two_names_counts_once() -> None:
    names = [target.name for target in load_targets("jetson-orin,jetson-agx-orin-64gb@maxn,jetson-orin@30w")]
    assert names == ["jetson-agx-orin-64gb", "jetson-agx-orin-64gb@30w"]
    assert [target.name for target in load_targets(["t4", "l4,t4"])] == ["t4", "l4"]


def test_every_alias_means_one_profile_and_hides_none() -> None:
    assert not target_aliases().keys() & set(target_names())
    for alias, name in target_aliases().items():
        assert load_target(alias) == load_target(name)


MINE = """
name = "mine"
device = "My board"
architecture = "Ada AD107"
compute_capability = "8.9"
runtime = "tensorrt"
builders = ["tensorrt"]
tensorrt = ["10.3", "10.16"]
memory_gb = 8
l2_mb = 24
memory_bandwidth_gbs = 256
fp32_tflops = 10
fp16_dense_tflops = 40
fp16_fp32acc_tflops = 20

[[modes]]
name = "fast"
label = "FAST"
sms = 24
gpu_clock_mhz = 2000

[[modes]]
name = "slow"
label = "SLOW"
sms = 24
gpu_clock_mhz = 1000
fp16_dense_tflops = 20
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "a@b" / "mine.toml"  # the '@' is part of the path
    path.parent.mkdir()
    path.write_text(MINE, encoding="utf-8")
    return path


def test_a_profile_of_ones_own_by_path_and_mode(mine: Path) -> None:
    assert load_target(mine) == load_target(str(mine)) == load_target(f"{mine}@fast") == read_profile(mine)
    slow = load_target(f"{mine}@slow")
    assert (slow.name, slow.profile, slow.power_mode, slow.modes) == ("mine@slow", "mine", "SLOW", ("fast", "slow"))
    assert (slow.fp16_dense_tflops, slow.fp32_tflops, slow.default_tensorrt) == (20, 10, "10.16")
    assert (slow.description, slow.on_jetson, slow.fp4_dense_tflops) == ("My board in power mode SLOW", False, None)
    assert "sms" not in slow.sources


def test_the_text_of_a_shipped_profile_is_a_profile(tmp_path: Path) -> None:
    for name in ("jetson-orin", "rtx-4090"):
        path = tmp_path / "copy.toml"
        path.write_text(profile_text(name), encoding="utf-8")
        assert load_target(path) == load_target(name)
