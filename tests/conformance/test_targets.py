"""What every target keeps, in each of its power modes: names, JSON, numbers that fit each other, a source for each."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from edgeprune.report import from_json, to_json
from edgeprune_targets._profile_checks import read_raw
from edgeprune_targets.profiles import NUMBERS, Target, load_target, mode_names, target_aliases, target_names

FOLDER = Path(__file__).parents[2] / "targets" / "edgeprune_targets" / "profiles"
MODES = [f"{name}@{mode}" for name in target_names() for mode in mode_names(name)]
# fp16 operations of one SM in one clock: two for each multiply-add of the tensor cores, or of the plain cores.
RATES = {
    "5.3": 512, "6.2": 512, "7.2": 1024, "7.5": 1024, "8.0": 2048, "8.6": 1024, "8.7": 2048, "8.9": 1024,
    "9.0": 4096, "11.0": 8192, "12.0": 1024, "12.1": 1024,
}  # fmt: skip
ROUNDED = 0.015  # the tables round peaks to two figures at worst, 3.3 for 3.34, and clocks to 1 MHz


@pytest.mark.parametrize("name", target_names())
def test_a_target_is_found_by_its_name_and_says_what_it_is(name):
    target = load_target(name)
    assert target.name == target.profile == name
    assert target.device in target.description
    assert target.mode == target.modes[0]


@pytest.mark.parametrize("name", MODES)
def test_a_target_survives_json(name):
    target = load_target(name)
    assert from_json(to_json(target), Target) == target
    assert load_target(target.name) == target


def test_the_file_bears_the_name():
    for path in FOLDER.glob("*.toml"):
        assert read_raw(path)["name"] == path.stem


def test_an_alias_names_one_target_and_hides_none():
    aliases = [alias for name in target_names() for alias in load_target(name).aliases]
    assert len(aliases) == len(set(aliases)) == len(target_aliases())
    assert not set(aliases) & set(target_names())


@pytest.mark.parametrize("name", MODES)
def test_every_number_names_its_source(name):
    target = load_target(name)
    stated = {field for field in NUMBERS if getattr(target, field)}
    assert stated | {"software" if target.on_jetson else "tensorrt"} <= target.sources.keys()
    assert not target.nvpmodel or "nvpmodel" in target.sources
    absent = target.sources.keys() & NUMBERS.keys() - stated
    assert not absent, "a source for a number that is not there"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_no_number_has_two_sources_at_one_place(path):
    raw = read_raw(path)
    for table in (raw, *raw.get("modes", ())):
        named = [field for source in table.get("sources", ()) for field in source["fields"]]
        assert len(named) == len(set(named))


@pytest.mark.parametrize("name", MODES)
def test_peaks_follow_from_sms_and_clock(name):
    target = load_target(name)
    assert target.fp16_dense_tflops == pytest.approx(_peak(target), rel=ROUNDED)
    halves = 2 if target.device.startswith("GeForce") else 1
    assert target.fp16_fp32acc_tflops == pytest.approx(_peak(target) / halves, rel=ROUNDED)


def _peak(target):
    return target.sms * target.gpu_clock_mhz * 1e-6 * RATES[target.compute_capability]


@pytest.mark.parametrize("name", MODES)
def test_half_the_type_is_twice_the_rate(name):
    target = load_target(name)
    for field, times in {
        "int8_dense_tops": 2,
        "int8_sparse_tops": 4,
        "fp8_dense_tflops": 2,
        "fp4_dense_tflops": 4,
    }.items():
        if (value := getattr(target, field)) is not None:
            assert value == pytest.approx(times * _peak(target), rel=ROUNDED)
    capability = float(target.compute_capability)
    assert (target.int8_dense_tops is None) == (capability < 7)
    assert (target.int8_sparse_tops is None) == (capability < 8)
    assert (target.fp8_dense_tflops is None) == (capability < 8.9)
    assert (target.fp4_dense_tflops is None) == (capability < 10)


@pytest.mark.parametrize("name", [name for name in target_names() if len(mode_names(name)) > 1])
def test_a_mode_with_less_power_is_not_faster(name):
    modes = sorted((load_target(f"{name}@{mode}") for mode in mode_names(name)), key=lambda mode: mode.tdp_w)
    for less, more in pairwise(modes):
        if less.tdp_w < more.tdp_w:
            assert less.fp16_dense_tflops <= more.fp16_dense_tflops
            assert less.memory_bandwidth_gbs <= more.memory_bandwidth_gbs


@pytest.mark.parametrize("name", target_names())
def test_a_jetson_has_its_software_and_builds_with_tensorrt_alone(name):
    target = load_target(name)
    assert target.on_jetson == name.startswith("jetson-")
    assert target.runtime in target.builders
    assert "tensorrt" in target.builders
    if target.on_jetson:
        assert target.builders == ("tensorrt",)
        assert len({row.jetpack for row in target.software}) == len(target.software)
