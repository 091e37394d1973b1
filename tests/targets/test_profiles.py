"""Profiles: names, aliases, schema, sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.core.errors import TargetError
from edgeprune_targets.profiles import NUMBERS, load_target, read_profile, target_aliases, target_names

FOLDER = Path(__file__).parents[2] / "targets" / "edgeprune_targets" / "profiles"


@pytest.mark.parametrize("name", target_names())
def test_every_shipped_number_names_its_source(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert set(NUMBERS) <= target.sources.keys()
    assert all(target.sources.values())


@pytest.mark.parametrize("name", target_names())
def test_shipped_peaks_follow_from_sms_and_clock(name: str) -> None:
    target = load_target(name)
    rate = {"7.5": 1024, "8.0": 2048, "8.6": 1024, "8.7": 2048, "8.9": 1024, "11.0": 8192, "12.0": 1024}
    peak = target.sms * target.gpu_clock_mhz * 1e6 * rate[target.compute_capability] / 1e12
    assert peak == pytest.approx(target.fp16_dense_tflops, rel=0.01)  # the tables round clocks to 1 MHz

    halves = 2 if target.description.startswith("GeForce") else 1
    assert target.fp16_fp32acc_tflops == pytest.approx(target.fp16_dense_tflops / halves, rel=0.01)


def test_the_spine_names_are_there() -> None:
    spine = ["jetson-orin", "jetson-orin-nano", "jetson-orin-nx", "jetson-thor", "rtx-3090", "rtx-4090", "rtx-4060"]
    spine += ["rtx-5090", "rtx-2080-ti", "t4", "l4", "a100"]
    assert {load_target(name).name for name in spine} == set(target_names())


def test_jetson_orin_means_a_stated_board_and_mode() -> None:
    target = load_target("jetson-orin")
    assert (target.name, target.sm) == ("jetson-agx-orin-64gb", "sm87")
    assert target.on_jetson
    assert "64GB" in target.description
    assert "MAXN" in target.description


def test_no_alias_hides_a_name() -> None:
    assert not target_aliases().keys() & set(target_names())


def test_unknown_name_gets_a_hint() -> None:
    with pytest.raises(TargetError) as caught:
        load_target("rtx-4009")
    assert caught.value.hint == "did you mean rtx-4090?"
    with pytest.raises(TargetError, match="unknown target 'zzz'"):
        load_target("zzz")


def _edited(tmp_path: Path, old: str, new: str) -> Path:
    text = (FOLDER / "rtx-4090.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    path = _edited(tmp_path, 'name = "rtx-4090"', 'name = "mine"')
    assert load_target(path).name == load_target(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("sms = 128", "sms = 'many'", "Expected `int`, got `str` - at `$.sms`"),
        ("sms = 128", "sms = 0", "`sms` is 0, expected a number above 0"),
        ("sms = 128\n", "", "lacks `sms`"),
        ("sms = 128", "smz = 128", "unknown field `smz`"),
        ("gemm_utilisation = 0.62", "gemm_utilisation = 1.5", "`gemm_utilisation` is 1.5, expected a share in (0, 1]"),
        ('runtime = "tensorrt-rtx"', 'runtime = "tvm"', "Invalid enum value 'tvm' - at `$.runtime`"),
        (
            'compute_capability = "8.9"',
            'compute_capability = "89"',
            "`compute_capability` is 89, expected",
        ),
        ('builders = ["tensorrt-rtx", "tensorrt"]', 'builders = ["nvcc"]', "`builders` is nvcc, expected some of"),
        ("[sources]", "[sources]\nspeed = 'x'", "`sources` is speed, expected names of fields"),
        ("sms = 128", "sms = ", "is not TOML"),
    ],
)
def test_a_wrong_profile_is_a_target_error(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = _edited(tmp_path, old, new)
    with pytest.raises(TargetError) as caught:
        read_profile(path)
    assert says in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot read target profile"):
        load_target(tmp_path / "none.toml")
