"""The form of scans goes from the option through plan, files and report, and every form computes the same."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from support.tiny_vim import VimSpelling, example, exported

from edgeprune import api
from edgeprune.cli.main import run
from edgeprune.core.errors import PlanError
from edgeprune.core.plan import read_plan
from edgeprune.options import Options
from edgeprune_calibration.runner import Runner

VIT = Path(__file__).resolve().parents[2] / "demo" / "digits_vit.onnx"
SPELLING = VimSpelling(form="scan", side=32)  # 64 patches: six chunks
SHAPES = {"image": (1, 3, 32, 32)}


@pytest.fixture(scope="module")
def vim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vim") / "vim.onnx"
    path.write_bytes(exported(SPELLING))
    return path


def compiled(vim: Path, out: Path, scan: str, **more: object) -> api.CompileResult:
    options = Options(inputs=SHAPES, scan=scan, engine=False, strategy="ssm-delta", **more)  # type: ignore[arg-type]
    return api.compile(vim, keep=0.8, target="jetson-agx-orin-64gb", out=out, options=options)


def operators(path: Path) -> set[str]:
    model = ir.from_proto(onnx.load(path))
    assert not model.functions
    assert set(model.graph.opset_imports) == {""}
    assert {node.domain for node in model.graph.all_nodes()} == {""}
    return {node.op_type for node in model.graph}


@pytest.fixture(scope="module")
def outs(vim: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("outs")
    for scan in ("auto", "loop", "chunked"):
        compiled(vim, folder / scan, scan)
    return {scan: folder / scan for scan in ("auto", "loop", "chunked")}


@pytest.mark.parametrize(
    ("scan", "looped", "looped_on_device"), [("auto", True, False), ("loop", True, True), ("chunked", False, False)]
)
def test_model_and_device_get_the_form(outs: dict[str, Path], scan: str, looped: bool, looped_on_device: bool) -> None:
    out = outs[scan]
    assert ("Scan" in operators(out / "model.onnx")) == looped
    for name in ("model", "dense"):
        assert ("Scan" in operators(out / "deploy" / f"{name}.onnx")) == looped_on_device
    assert read_plan(out / "plan.json").scan == scan


def test_every_form_computes_the_same(outs: dict[str, Path]) -> None:
    image = example(SPELLING, 1)
    found = [next(iter(Runner(out / "model.onnx", threads=1).run(image).values())) for out in outs.values()]
    for one in found[1:]:
        assert abs(one - found[0]).max() < 1e-5 * abs(found[0]).max()


def test_the_plan_makes_the_same_bytes_again(vim: Path, outs: dict[str, Path], tmp_path: Path) -> None:
    again = Options(inputs=SHAPES, engine=False)
    api.compile(vim, plan=outs["chunked"] / "plan.json", out=tmp_path / "again", options=again)
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (outs["chunked"] / "model.onnx").read_bytes()


def test_the_report_says_the_form_and_warns_of_loops_on_the_device(
    outs: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    says = {
        "auto": "a loop in model.onnx, chunks in graphs for TensorRT",
        "loop": "a loop over the tokens, everywhere",
        "chunked": "chunks of tokens side by side, everywhere",
    }
    for scan, out in outs.items():
        assert run(["report", str(out)]) == 0
        shown = " ".join(capfd.readouterr().out.split())
        assert says[scan] in shown
        assert says[scan] in (out / "report.html").read_text(encoding="utf-8")
        assert ("runs a Scan one step at a time" in shown) == (scan == "loop")


def test_a_loop_is_modelled_as_one(outs: dict[str, Path]) -> None:
    rows = {scan: api.report(out).latency[0].pruned_p50_ms for scan, out in outs.items()}
    assert rows["loop"] > 2 * rows["auto"]
    assert rows["auto"] == rows["chunked"]


def test_a_form_for_a_model_without_scans_is_refused() -> None:
    with pytest.raises(PlanError) as caught:
        api.plan(VIT, keep=0.8, options=Options(scan="chunked"))
    assert caught.value.message == "`scan` is chunked, and the model has no selective scan"
    assert caught.value.hint == "leave out --scan; `edgeprune inspect` says why a loop is no selective scan"


def test_check_takes_the_form(vim: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["check", str(vim), "--input", "image:1x3x32x32", "--targets", "jetson-agx-orin-64gb", "--no-build"]
    found = {}
    for scan in ("auto", "loop"):
        assert run([*words, "--json", "--scan", scan]) == 0
        (target,) = json.loads(capfd.readouterr().out)["targets"]
        found[scan] = [finding for finding in target["findings"] if "one step at a time" in finding["reason"]]
        assert target["proof"]["passed"]
    (warning,) = found["loop"]
    assert not found["auto"]
    assert warning["severity"] == "warning"
    assert warning["reason"].startswith("TensorRT 10.3 runs a Scan one step at a time: 65 times the launches")
    assert warning["remedy"] == "compile with `--scan chunked`"
    assert len(warning["also"]) == 3
