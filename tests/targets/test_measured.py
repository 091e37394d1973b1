"""measured.json of a real bench.sh read back, and what is refused."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.bundles import PLAN, SOURCE, make_bundle
from support.fake_device import jetson

from edgeprune.core.errors import TargetError
from edgeprune.core.results import BlockLatency, Timing
from edgeprune_targets.measured import matches, read_measured, to_latency

PLAN_SHA256 = hashlib.sha256(PLAN).hexdigest()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("measured")
    device, folder = jetson(place / "device"), make_bundle(place, tensorrt="10.3.0")
    for script in ("build.sh", "bench.sh"):
        assert device.run(folder / script).returncode == 0
    return folder / "measured.json"


@pytest.fixture
def spoil(original: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the measurement with some fields changed; a value of ... takes the field away."""

    def change(changes: dict[tuple[str | int, ...], Any]) -> Path:
        raw = copy.deepcopy(json.loads(original.read_text(encoding="utf-8")))
        for (*path, last), value in changes.items():
            at = raw
            for step in path:
                at = at[step]
            if value is ...:
                del at[last]
            else:
                at[last] = value
        (tmp_path / "measured.json").write_text(json.dumps(raw), encoding="utf-8")
        return tmp_path / "measured.json"

    return change


def test_what_bench_sh_writes_is_read_whole(original: Path) -> None:
    measured = read_measured(original)
    assert (measured.target, measured.tensorrt, measured.lowered_for) == (
        "jetson-orin-nano-8gb-super",
        "10.3.0",
        "10.3.0",
    )
    assert measured.pruned.timing == Timing(p50_ms=1.25, p90_ms=11, p99_ms=11, samples=10)
    assert measured.dense is not None
    assert measured.dense.rounds == (Timing(p50_ms=2, p90_ms=17.6, p99_ms=17.6, samples=5),) * 2
    assert measured.pruned.sensors is not None
    assert measured.pruned.sensors.power_mw["VDD_IN"] == 16500
    assert (measured.clocks.locked, measured.settings.rounds) == (True, 2)
    assert measured.pruned.build_flags == "--stronglyTyped --skipInference --builderOptimizationLevel=3"


def test_as_a_row_of_a_report(original: Path) -> None:
    blocks = (BlockLatency(block=0, dense_ms=1, pruned_ms=0.5),)
    row = to_latency(read_measured(original), blocks)
    assert (row.kind, row.dense_p50_ms, row.pruned_p50_ms, row.speedup) == ("measured", 2, 1.25, 1.6)
    assert (row.runtime, row.precision) == ("TensorRT 10.3.0", "fp16")
    assert row.device == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super (MAXN_SUPER)"
    assert row.method == "trtexec on the device, GPU compute time, 2 rounds of 1 s, dense and pruned in turns"
    assert row.pruned_timing == Timing(p50_ms=1.25, p90_ms=11, p99_ms=11, samples=10)
    assert row.blocks == blocks
    assert row.dense_interval_ms is None


def test_without_a_dense_time_there_is_no_gain(spoil: Callable[..., Path]) -> None:
    measured = read_measured(spoil({("dense",): None}))
    with pytest.raises(TargetError, match="holds no time of the dense model, so there is no gain to report"):
        to_latency(measured)


def test_it_is_tied_to_the_compile(original: Path) -> None:
    measured = read_measured(original)
    lowered = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("pruned", "dense")}
    assert matches(measured, source_sha256=SOURCE, plan_sha256=PLAN_SHA256) == []
    assert not matches(
        measured, source_sha256=SOURCE, plan_sha256=PLAN_SHA256,
        pruned_sha256=lowered["pruned"], dense_sha256=lowered["dense"],
    )  # fmt: skip
    assert matches(measured, source_sha256="cd" * 32, plan_sha256="ef" * 32, pruned_sha256="01" * 32) == [
        "the model that was compiled has sha256 cdcdcdcdcdcd, the measured one abababababab",
        f"the plan has sha256 efefefefefef, the measured one {PLAN_SHA256[:12]}",
        f"the model.onnx of the bundle has sha256 010101010101, the measured one {lowered['pruned'][:12]}",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({("kind",): "modelled"}, "is no measurement: expected a JSON object with `kind` measured"),
        ({("schema",): 9}, "has schema 9, expected 1: `schema`"),
        ({("schema",): ...}, "has schema None, expected 1: `schema`"),
        ({("pruned",): ...}, "is no measurement: Object missing required field `pruned`"),
        ({("pruned", "p50_ms"): "fast"}, "Expected `float`, got `str` - at `\\$.pruned.p50_ms`"),
        ({("pruned", "p50_ms"): None}, "Expected `float`, got `null`"),
        ({("dense", "p50_ms"): 0}, "has dense times \\(0.0, .* expected numbers above 0"),
        ({("pruned", "samples"): 0}, "of 0 runs, expected numbers above 0"),
        ({("pruned", "p90_ms"): 0.5}, "expected p50 <= p90 <= p99"),
        ({("pruned", "rounds", 1, "p99_ms"): -1}, "expected numbers above 0"),
    ],
)
def test_what_is_wrong_is_named(spoil: Callable[..., Path], changes: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message) as caught:
        read_measured(spoil(changes))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema": 1, "kind": "measured", ', "is not JSON"),
        (b'{"p50_ms": NaN}', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[1, 2]", "expected a JSON object"),
        (b"", "is not JSON"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(TargetError, match=message) as caught:
        read_measured(tmp_path / "file.json")
    assert "bench.sh" in caught.value.hint


def test_a_time_without_end_is_refused(original: Path, tmp_path: Path) -> None:
    text = original.read_text(encoding="utf-8").replace('"p99_ms": 11', '"p99_ms": 1e999')
    (tmp_path / "measured.json").write_text(text, encoding="utf-8")
    with pytest.raises(TargetError):
        read_measured(tmp_path / "measured.json")


def test_no_file_and_no_right_to_read(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="No such file or directory"):
        read_measured(tmp_path / "absent.json")
    with pytest.raises(TargetError, match="Is a directory"):
        read_measured(tmp_path)
