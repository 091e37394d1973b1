"""Profiles that are wrong: which file, which field, what was expected, what was found, what to do; word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.core.errors import TargetError
from edgeprune_targets.profiles import load_target, load_targets, split_targets

GOOD = """
name = "mine"
device = "My board"
architecture = "Ampere GA10B"
compute_capability = "8.7"
runtime = "tensorrt"
builders = ["tensorrt"]
default_tensorrt = "10.3.0"
memory_gb = 8
l2_mb = 2
memory_bandwidth_gbs = 102.4

[[software]]
jetpack = "6.2"
l4t = "36.4.3"
tensorrt = "10.3.0"

[[modes]]
name = "fast"
label = "FAST"
sms = 8
gpu_clock_mhz = 1020
fp32_tflops = 2.09
fp16_dense_tflops = 16.7
fp16_fp32acc_tflops = 16.7

[[modes]]
name = "15w"
label = "15W"
sms = 8
gpu_clock_mhz = 612
fp32_tflops = 1.25
fp16_dense_tflops = 10.0
fp16_fp32acc_tflops = 10.0

[[modes.sources]]
status = "verified"
text = "a dump"
fields = ["gpu_clock_mhz"]
"""
COPY = "`edgeprune targets show rtx-4090 --toml` prints a profile to copy from"

# What is replaced, by what; what the message says after "target profile PATH"; the hint.
CASES: dict[str, tuple[str, str, str, str]] = {
    "an unknown field": (
        "memory_gb = 8", "memory_gib = 8",
        " has an unknown field `memory_gib`",
        "did you mean `memory_gb`?",
    ),
    "an unknown field of a mode": (
        "gpu_clock_mhz = 612", "gpu_clock = 612",
        ", mode `15w` has an unknown field `gpu_clock`",
        "did you mean `gpu_clock_mhz`?",
    ),
    "a field in a mode that all modes share": (
        "gpu_clock_mhz = 612", "gpu_clock_mhz = 612\nmemory_gb = 8",
        ", mode `15w` has the field `memory_gb`, which is the same in all modes",
        "put `memory_gb` above the first [[modes]]",
    ),
    "an unknown field of the software": (
        'l4t = "36.4.3"', 'l4 = "36.4.3"',
        ", software 1 has an unknown field `l4`",
        "did you mean `l4t`?",
    ),
    "a missing word": (
        'device = "My board"\n', "",
        " lacks `device` (text in quotes)",
        COPY,
    ),
    "missing numbers": (
        "l2_mb = 2\nmemory_bandwidth_gbs = 102.4\n", "",
        ", mode `fast`, lacks `memory_bandwidth_gbs` (a number above 0), `l2_mb` (a number above 0)",
        COPY,
    ),
    "a number that one mode lacks": (
        "sms = 8\ngpu_clock_mhz = 612", "gpu_clock_mhz = 612",
        ", mode `15w`, lacks `sms` (a whole number above 0)",
        COPY,
    ),
    "a mode without a name": (
        'name = "15w"\n', "",
        ", mode 2 lacks `name` (lower-case letters, digits, '.', '_' and '-')",
        COPY,
    ),
    "software without a version": (
        'tensorrt = "10.3.0"\n\n[[modes]]', "[[modes]]",
        ", software 1 lacks `tensorrt` (a version such as '10.3')",
        COPY,
    ),
    "text where a number belongs": (
        "memory_gb = 8", 'memory_gb = "8"',
        ": `memory_gb` is '8', expected a number above 0",
        COPY,
    ),
    "a broken number of SMs": (
        "sms = 8\ngpu_clock_mhz = 612", "sms = 7.5\ngpu_clock_mhz = 612",
        ", mode `15w`: `sms` is 7.5, expected a whole number above 0",
        COPY,
    ),
    "no memory": ("memory_gb = 8", "memory_gb = 0", ": `memory_gb` is 0, expected a number above 0", COPY),
    "infinite memory": ("memory_gb = 8", "memory_gb = inf", ": `memory_gb` is inf, expected a number above 0", COPY),
    "a truth for a number": ("l2_mb = 2", "l2_mb = true", ": `l2_mb` is True, expected a number above 0", COPY),
    "a name that is no file name": (
        'name = "mine"', 'name = "My board"',
        ": `name` is 'My board', expected lower-case letters, digits, '.', '_' and '-'",
        COPY,
    ),
    "a compute capability without a point": (
        '"8.7"', '"87"',
        ": `compute_capability` is '87', expected 'major.minor'",
        COPY,
    ),
    "an unknown runtime": (
        'runtime = "tensorrt"', 'runtime = "tvm"',
        ": `runtime` is 'tvm', expected one of tensorrt-rtx, tensorrt",
        COPY,
    ),
    "a runtime without a builder": (
        'runtime = "tensorrt"', 'runtime = "tensorrt-rtx"',
        ": `runtime` is 'tensorrt-rtx', expected one of its builders, tensorrt",
        COPY,
    ),
    "a builder that does not exist": (
        'builders = ["tensorrt"]', 'builders = ["tensort"]',
        ": `builders` is ['tensort'], expected some of tensorrt, tensorrt-rtx",
        "did you mean `tensorrt`?",
    ),
    "TensorRT-RTX for a device that it does not know": (
        'builders = ["tensorrt"]', 'builders = ["tensorrt", "tensorrt-rtx"]',
        (": `builders` is ['tensorrt', 'tensorrt-rtx'], expected 'tensorrt' alone:"
        " TensorRT-RTX has no compute capability 8.7"),
        "it has 7.5, 8.0, 8.6, 8.9, 12.0, 12.1",
    ),
    "two modes of one name": (
        'name = "15w"', 'name = "fast"',
        " has 2 modes named `fast`, expected one",
        "give each [[modes]] a `name` of its own",
    ),
    "modes as a list of names": (
        GOOD[GOOD.index("[[software]]"):], 'modes = ["fast"]\ntensorrt = ["10.3"]\n',
        ": `modes` is ['fast'], expected a list of tables",
        COPY,
    ),
    "no version of TensorRT": (
        GOOD[GOOD.index("[[software]]"):GOOD.index("[[modes]]")], "",
        " has neither of `tensorrt` and [[software]], expected one of the two",
        "a Jetson has [[software]] with jetpack, l4t and tensorrt; all else has `tensorrt`",
    ),
    "versions said twice": (
        "l2_mb = 2", 'l2_mb = 2\ntensorrt = ["10.3"]',
        " has both of `tensorrt` and [[software]], expected one of the two",
        "a Jetson has [[software]] with jetpack, l4t and tensorrt; all else has `tensorrt`",
    ),
    "versions in no order": (
        GOOD[GOOD.index("[[software]]"):GOOD.index("[[modes]]")], 'tensorrt = ["10.16", "10.3"]\n',
        ": `tensorrt` is ['10.16', '10.3'], expected a list of versions, oldest first",
        COPY,
    ),
    "a default that it cannot have": (
        'default_tensorrt = "10.3.0"', 'default_tensorrt = "8.6.2"',
        ": `default_tensorrt` is '8.6.2', expected one of 10.3.0",
        COPY,
    ),
    "a version that is a word": (
        'tensorrt = "10.3.0"\n\n', 'tensorrt = "newest"\n\n',
        ", software 1: `tensorrt` is 'newest', expected a version such as '10.3'",
        COPY,
    ),
    "a source of no field": (
        'fields = ["gpu_clock_mhz"]', 'fields = ["speed"]',
        ", mode `15w`, source 1: `fields` names `speed`, expected names of numbers",
        ("known fields: dla_count, dla_int8_dense_tops, fp16_dense_tflops, fp16_fp32acc_tflops,"
        " fp32_tflops, fp4_dense_tflops, fp8_dense_tflops, gpu_clock_mhz, head_size_step,"
        " int8_dense_tops, int8_sparse_tops, l2_mb, memory_bandwidth_gbs, memory_gb, mlp_step, nvpmodel,"
        " sms, software, tdp_w, tensorrt"),
    ),
    "a source of unknown standing": (
        'status = "verified"', 'status = "sure"',
        ", mode `15w`, source 1: `status` is 'sure', expected one of verified, derived, remembered, assumed, fitted",
        COPY,
    ),
    "a source without text": (
        'text = "a dump"\n', "",
        ", mode `15w`, source 1 lacks `text` (text in quotes)",
        COPY,
    ),
}  # fmt: skip


def _written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_the_cases_change_is_right_before(tmp_path: Path) -> None:
    assert load_target(_written(tmp_path, GOOD)).modes == ("fast", "15w")


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_profile(tmp_path: Path, case: str) -> None:
    old, new, says, hint = CASES[case]
    assert GOOD.count(old) == 1
    path = _written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(TargetError) as caught:
        load_target(path)
    assert caught.value.message == f"target profile {path}{says}"
    assert caught.value.hint == hint


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    for path in (_written(tmp_path, "sms = "), tmp_path / "binary.toml"):
        (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(TargetError) as caught:
            load_target(path)
        assert caught.value.message.startswith(f"target profile {path} is not TOML: ")
        assert caught.value.hint == COPY


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TargetError) as caught:
        load_target(tmp_path / "none.toml")
    assert caught.value.message == f"cannot read target profile {tmp_path / 'none.toml'}: No such file or directory"
    assert caught.value.hint == "give the name of a target or the path of a TOML profile"


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        (
            "rtx-4009",
            "unknown target 'rtx-4009': expected the name of a profile or the path of a TOML file",
            "did you mean rtx-4090?",
        ),
        (
            "RTX-4090",
            "unknown target 'RTX-4090': expected the name of a profile or the path of a TOML file",
            "did you mean rtx-4090?",
        ),
        (
            "zzz",
            "unknown target 'zzz': expected the name of a profile or the path of a TOML file",
            "`edgeprune targets` lists them; the path of a TOML profile works too",
        ),
        (
            "jetson-orin@40w",
            "target `jetson-agx-orin-64gb` has no power mode `40w`, expected one of maxn, 50w, 30w, 15w",
            "did you mean `50w`?",
        ),
        (
            "rtx-4090@quiet",
            "target `rtx-4090` has no power mode `quiet`, expected one of default",
            "`rtx-4090` alone means its mode `default`",
        ),
    ],
)
def test_a_name_or_a_mode_that_does_not_exist(word: str, message: str, hint: str) -> None:
    with pytest.raises(TargetError) as caught:
        load_target(word)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize("word", ["", ",", "rtx-4090,,t4", "rtx-4090,"])
def test_a_list_with_a_hole(word: str) -> None:
    with pytest.raises(TargetError) as caught:
        split_targets([word])
    assert caught.value.message == f"a target is missing in {word!r}: expected names with one comma between two"
    assert caught.value.hint == "write it as rtx-4090,rtx-3090"


def test_two_files_of_one_name(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(GOOD.replace("l2_mb = 2", "l2_mb = 4"), encoding="utf-8")
    with pytest.raises(TargetError) as caught:
        load_targets([str(_written(tmp_path, GOOD)), str(other)])
    assert caught.value.message == f"two different profiles are named `mine`: one of them is {other}"
    assert caught.value.hint == "change `name` in one of the two; what is written for a target bears its name"
