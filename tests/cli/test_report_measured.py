"""`edgeprune report --measured`: a device's own numbers, brought back to the compile that they are of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest
from support.fake_device import jetson

from edgeprune import api
from edgeprune.cli.main import run
from edgeprune.compiler.delivering.folding import _deploy, fold_measured
from edgeprune.core.results import Latency
from edgeprune.options import Options
from edgeprune.report import Report, from_json

DEMO = Path(__file__).resolve().parents[2] / "demo"


@pytest.fixture(scope="module")
def on_device(tmp_path_factory) -> Path:
    """A compile whose bundle was built and timed on a device: `out`, and `measured.json` beside it."""
    place = tmp_path_factory.mktemp("device")
    options = Options(strategy="cls-topk", engine=False)
    target = "jetson-orin-nano"
    api.compile(DEMO / "digits_vit.onnx", keep=0.6, target=target, out=place / "out", options=options)
    shutil.copytree(place / "out" / "deploy", place / "there")
    device = jetson(place / "device")
    for script in ("build.sh", "bench.sh"):
        done = device.run(place / "there" / script)
        assert done.returncode == 0, done.stderr
    shutil.copy(place / "there" / "measured.json", place / "measured.json")
    return place


@pytest.fixture
def back(on_device, tmp_path) -> Path:
    """A copy of it, to write into."""
    shutil.copytree(on_device / "out", tmp_path / "out")
    shutil.copy(on_device / "measured.json", tmp_path)
    return tmp_path


def rewrite(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def read(place: Path) -> Report:
    return from_json((place / "out" / "report.json").read_bytes(), Report)


def test_what_the_device_measured_comes_first_and_the_model_is_held_against_it(back, capfd):
    (modelled,) = [row for row in read(back).latency if row.kind == "modelled"]
    words = ["report", str(back / "out"), "--measured", str(back / "measured.json")]
    assert run(words) == 0
    shown = capfd.readouterr().out
    after = read(back)
    first = after.latency[0]
    assert (first.kind, first.target, first.runtime) == ("measured", modelled.target, "TensorRT 10.3.0")
    assert modelled in after.latency
    page = (back / "out" / "report.html").read_text()
    for text in (shown, page):
        assert "Jetson Orin Nano" in text or text is shown
        assert "modelled before it was measured" in text
    assert run(words) == 0  # once more: the same, not twice
    assert read(back) == after
    assert (back / "out" / "report.html").read_text() == page
    assert sorted(path.name for path in (back / "out").iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("source_sha256", "the model that was compiled has sha256"),
        ("plan_sha256", "the plan has sha256"),
        ("pruned", "the model.onnx of the bundle has sha256"),
    ],
)
def test_numbers_of_another_compile_are_refused(back, capfd, key, words):
    def change(data):
        if key == "pruned":
            data["pruned"]["onnx_sha256"] = "0" * 64
        else:
            data[key] = "0" * 64

    before = (back / "out" / "report.json").read_bytes()
    page = (back / "out" / "report.html").read_bytes()
    rewrite(back / "measured.json", change)
    assert run(["report", str(back / "out"), "--measured", str(back / "measured.json")]) == 1
    error = capfd.readouterr().err
    assert f"error: {back / 'measured.json'} is of another compile: {words}" in error
    assert "the measured one 000000000000" in error
    assert "hint: give the measured.json of the deploy folder that came with this report" in error
    assert (back / "out" / "report.json").read_bytes() == before
    assert (back / "out" / "report.html").read_bytes() == page


def test_what_spoiled_the_measurement_is_said_until_the_next(back):
    path = back / "measured.json"

    def spoil(data):
        data["warnings"] = ["the clocks are not locked"]
        data["pruned"] |= {"p50_ms": 9.0, "p90_ms": 9.0, "p99_ms": 9.0}
        data["dense"] |= {"p50_ms": 8.0, "p90_ms": 8.0, "p99_ms": 8.0}

    good = path.read_bytes()
    rewrite(path, spoil)
    words = ["report", str(back / "out"), "--measured", str(path)]
    assert run(words) == 0
    target = read(back).latency[0].target
    assert f"{target}: measured slower than dense (0.89x)" in read(back).warnings
    assert f"{target}: while it was measured: the clocks are not locked" in read(back).warnings
    assert not [each for each in read(back).warnings if each.startswith(f"{target}: modelled slower")]
    path.write_bytes(good)
    assert run(words) == 0
    assert not [each for each in read(back).warnings if "measured slower" in each or "clocks" in each]


def test_layers_come_back_as_blocks(back):
    from edgeprune_targets.attribution import node_blocks

    def profile(data):
        for engine, file in (("dense", "dense.onnx"), ("pruned", "model.onnx")):
            blocks = node_blocks(ir.load(back / "out" / "deploy" / file))
            layers = {block: name for name, block in blocks.items()}  # one node of each block
            rows = [{"name": name, "medianMs": 1.0 + (block == 2)} for block, name in layers.items()]
            data[engine] |= {"profile": json.dumps([{"count": 1}, *rows]), "layers": None}

    rewrite(back / "measured.json", profile)
    assert run(["report", str(back / "out"), "--measured", str(back / "measured.json")]) == 0
    first = read(back).latency[0]
    assert [row.block for row in first.blocks] == [-1, *range(6)]
    assert sum(row.dense_ms for row in first.blocks) == pytest.approx(first.dense_p50_ms)
    times = {row.block: row.pruned_ms for row in first.blocks}
    assert times[2] == pytest.approx(2 * times[1])
    assert f"Time per block, {first.target}</strong> measured" in (back / "out" / "report.html").read_text()


def test_a_profile_that_cannot_be_read_costs_the_blocks_only(back):
    rewrite(back / "measured.json", lambda data: data["pruned"].update(profile="{"))
    assert run(["report", str(back / "out"), "--measured", str(back / "measured.json")]) == 0
    assert read(back).latency[0].blocks == ()
    (words,) = [each for each in read(back).warnings if "time by block" in each]
    assert "is not known: the profile is not JSON" in words


def test_without_a_dense_time_there_is_no_gain(back, capfd):
    rewrite(back / "measured.json", lambda data: data.update(dense=None))
    assert run(["report", str(back / "out"), "--measured", str(back / "measured.json")]) == 1
    assert "measured.json holds no time of the dense model" in capfd.readouterr().err


ROW = Latency(
    target="rtx-4090", kind="measured", dense_p50_ms=2.0, pruned_p50_ms=1.0, speedup=2.0, runtime="TensorRT 10.3.0",
    precision="fp16", device="GeForce RTX 4090",
)  # fmt: skip


def test_a_measured_row_comes_first_and_takes_the_place_of_the_last_measurement(on_device):
    report = read(on_device)
    modelled = replace(ROW, kind="modelled", runtime="", device="", speedup=0.9)
    words = ("rtx-4090: modelled slower than dense (0.90x): ...", "t4: modelled slower than dense (0.90x): ...")
    report = replace(report, latency=(modelled,), warnings=words)
    first = fold_measured(report, ROW, [])
    assert first.latency == (ROW, modelled)
    assert first.warnings == words[1:]  # what the model said of this target, the clock has settled
    newer = replace(ROW, pruned_p50_ms=0.5)
    elsewhere = replace(newer, device="GeForce RTX 4090 D")
    assert fold_measured(first, newer, []).latency == (newer, modelled)
    assert fold_measured(first, elsewhere, []).latency == (elsewhere, ROW, modelled)


@pytest.fixture(scope="module")
def benched(on_device) -> Path:
    words = ["bench", str(DEMO / "digits_vit.onnx"), str(on_device / "out"), "-r", "onnxruntime-cpu", "--rounds", "6"]
    assert run([*words, "-o", str(on_device / "bench.json")]) == 0
    return on_device / "bench.json"


def test_what_bench_timed_here_comes_back_the_same_way(back, benched):
    assert run(["report", str(back / "out"), "--measured", str(benched)]) == 0
    first, *others = read(back).latency
    assert (first.kind, first.target) == ("measured", "onnxruntime-cpu")
    assert first.speedup_interval is not None
    assert [row.kind for row in others] == ["modelled"]


def test_what_bench_timed_of_another_model_is_refused(back, benched, tmp_path, capfd):
    strange = tmp_path / "strange.json"
    shutil.copy(benched, strange)
    rewrite(strange, lambda data: data["models"][1].update(sha256="0" * 64))
    assert run(["report", str(back / "out"), "--measured", str(strange)]) == 1
    assert "its pruned model is another one" in capfd.readouterr().err


def test_a_target_that_a_file_names_leads_nowhere_but_into_the_bundle(tmp_path):
    (tmp_path / "out" / "deploy").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.onnx").write_bytes(b"")
    for target in ("../../elsewhere", str(tmp_path / "elsewhere"), "..", "*", ""):
        assert _deploy(tmp_path / "out", target) is None
    (tmp_path / "out" / "deploy" / "rtx-4090").mkdir()
    (tmp_path / "out" / "deploy" / "rtx-4090" / "model.onnx").write_bytes(b"")
    assert _deploy(tmp_path / "out", "rtx-4090") == tmp_path / "out" / "deploy" / "rtx-4090"
