from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeprune.core.errors import DataError, ModelError
from edgeprune_calibration.data import open_dataset
from edgeprune_calibration.drift import measure_drift
from edgeprune_calibration.reference import OnnxReference, TorchReference
from edgeprune_calibration.runner import Runner
from edgeprune_calibration.sources import export_torch, is_torch_source, load_torch

torch = pytest.importorskip("torch", reason="PyTorch is an extra")
MODULE = "torch_sources_of_tests"
SOURCE = """
import torch

class Two(torch.nn.Module):
    def forward(self, a, b):
        return {"sum": a + b, "more": (a * b, None)}

class Skips(torch.nn.Module):
    def forward(self, pixels=None, ids=None, mask=None):
        return ids.float() * mask

class Random(torch.nn.Module):
    def forward(self, x):
        return x + torch.rand(2, 3)

class Counts(torch.nn.Module):
    def forward(self, x):
        return x.nonzero().tolist()[0][0] + x

def linear():
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 3)
    module.example_inputs = (torch.randn(1, 4),)
    return module

def two(): return Two(), {"a": torch.randn(1, 4), "b": torch.randn(1, 4)}
def skips(): return Skips()
def random(): return Random(), torch.randn(2, 3)
def counts(): return Counts(), torch.ones(2, 2)
def bare(): return torch.nn.Linear(4, 3)
def number(): return 3
def broken(): raise ValueError("no weights here")
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop(MODULE, None)


def need_timm() -> None:
    # Not imported here: that may need torchvision mended first, which is the code's own task.
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")


@pytest.fixture
def deit(shared: Path) -> str:
    need_timm()
    return f"timm:deit_tiny_patch16_224?checkpoint={shared / 'data' / 'deit_tiny_patch16_224.safetensors'}"


def test_sources_are_told_from_files(here: Path) -> None:
    assert all(map(is_torch_source, ("timm:vit", "pkg.module:factory", "folder/model.pt2")))
    assert not any(map(is_torch_source, ("vit.onnx", "folder/vit.onnx", "C:\\vit.onnx")))
    (here / "a:b").write_text("a file of an odd name")
    assert not is_torch_source("a:b")


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_factory_is_exported_with_its_names(here: Path, exporter: str) -> None:
    export = export_torch(f"{MODULE}:two", here / "out" / "m.onnx", exporter=exporter)
    assert (export.inputs, export.outputs) == (("a", "b"), ("sum", "more_0"))
    assert export.max_abs_error == 0
    assert [path.name for path in (here / "out").iterdir()] == ["m.onnx"]
    opsets = {each.domain: each.version for each in onnx.load(export.path).opset_import}
    assert opsets[""] == export.opset == (20 if exporter == "dynamo" else 17)
    got = Runner(export.path).run({"a": np.full((1, 4), 2, np.float32), "b": np.full((1, 4), 3, np.float32)})
    assert got["more_0"].tolist() == [[6, 6, 6, 6]]


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_dynamic_batch_runs_at_other_sizes(here: Path, exporter: str) -> None:
    export = export_torch(f"{MODULE}:linear", here / "m.onnx", exporter=exporter, dynamic_batch=True)
    runner = Runner(export.path)
    assert runner.inputs[0].shape == (None, 4)
    assert runner.run({runner.inputs[0].name: np.zeros((7, 4), np.float32)})["output"].shape == (7, 3)
    static = export_torch(f"{MODULE}:linear", here / "s.onnx", exporter=exporter, batch=3)
    assert Runner(static.path).inputs[0].shape == (3, 4)


def test_shapes_given_by_name_reach_parameters_that_are_not_first(here: Path) -> None:
    export = export_torch(
        f"{MODULE}:skips", here / "m.onnx", exporter="torchscript", inputs={"mask": (1, 5), "ids": (1, 5)}
    )
    assert set(export.inputs) == {"ids", "mask"}
    with pytest.raises(DataError, match="has no input `image`, it has pixels, ids, mask"):
        export_torch(f"{MODULE}:skips", here / "m.onnx", inputs={"image": (1, 5), "ids": (1, 5)})


def test_a_graph_that_disagrees_with_pytorch_is_not_written(here: Path) -> None:
    with pytest.raises(ModelError, match="the export's output `output` differs from PyTorch's by"):
        export_torch(f"{MODULE}:random", here / "m.onnx", exporter="torchscript")
    assert not list(here.glob("*.onnx"))
    assert not list(here.glob(".edgeprune*"))


def test_an_exporter_that_fails_says_why_in_one_line_and_nothing_else(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "m.onnx").write_text("what was there before")
    with pytest.raises(ModelError) as caught:
        export_torch(f"{MODULE}:counts", here / "m.onnx")
    assert "GuardOnDataDependentSymNode" in caught.value.message
    assert "\n" not in caught.value.message
    assert "--exporter torchscript" in caught.value.hint
    assert capfd.readouterr() == ("", "")
    assert (here / "m.onnx").read_text() == "what was there before"


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        (f"{MODULE}:bare", f"nothing says what `{MODULE}:bare` takes as input", "--input input:1x3x224x224"),
        (f"{MODULE}:number", "returns a int, expected a torch.nn.Module", "example_inputs"),
        (f"{MODULE}:broken", "failed: ValueError: no weights here", "without arguments"),
        (f"{MODULE}:absent", f"`{MODULE}` has no `absent`", "pkg.module:name"),
        ("no_such_module:f", "no module named `no_such_module`", "install it"),
        ("absent.pt2", "absent.pt2 is not an exported program: FileNotFoundError", "torch.export.save"),
        ("vit.onnx", "`vit.onnx` is no PyTorch source", "timm:NAME"),
    ],
)
def test_sources_that_give_no_module_are_refused(source: str, message: str, hint: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_torch(source)
    assert message in caught.value.message
    assert hint in caught.value.hint


def save_program(path: Path) -> Path:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.GELU()).eval()
    torch.export.save(torch.export.export(module, (torch.randn(2, 4),)), path)
    return path


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_an_exported_program_is_exported(here: Path, exporter: str) -> None:
    export = export_torch(str(save_program(here / "m.pt2")), here / "m.onnx", exporter=exporter)
    assert Runner(export.path).inputs[0].shape == (2, 4)
    assert export.max_abs_error < 1e-6  # of values below 1


def rewritten(path: Path, ending: str, change: object) -> Path:
    """Copy of the archive with the member that ends so passed through `change`."""
    other = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith(ending) else data)
    return other


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("owned",)


def test_an_exported_program_is_data(here: Path) -> None:
    path = save_program(here / "m.pt2")

    def retarget(data: bytes) -> bytes:
        tree = json.loads(data)
        tree["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.mkdir"
        return json.dumps(tree).encode()

    def pickled(_data: bytes) -> bytes:
        buffer = io.BytesIO()
        torch.save(((Evil(),), {}), buffer)
        return buffer.getvalue()

    def custom(_data: bytes) -> bytes:
        return json.dumps({"config": {"x": {"path_name": "opaque_obj_0", "use_pickle": True}}}).encode()

    def expression(data: bytes) -> bytes:
        return data.replace(b'{"as_int": 4}', b'{"as_expr": {"expr_str": "__import__(\'os\').mkdir(\'owned\')"}}')

    for ending, change, message in (
        ("models/model.json", retarget, "holds `target` with the value `torch.os.mkdir`, which is not read"),
        ("models/model.json", expression, "holds `expr_str` with the value `__import__"),
        ("model_constants_config.json", custom, "which is not read: model files are data"),
        ("sample_inputs/model.pt", pickled, "cannot load"),
    ):
        with pytest.raises(ModelError) as caught:
            load_torch(str(rewritten(path, ending, change)))
        assert message in caught.value.message
        assert not (here / "owned").exists()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("m/data/aotinductor/model/a.so", b"")
    with pytest.raises(ModelError, match=r"holds a member `m/data/aotinductor/model/a\.so`"):
        load_torch(str(path))


def test_a_checkpoint_is_data(here: Path) -> None:
    need_timm()
    torch.save({"model": Evil()}, here / "evil.pth")
    with pytest.raises(ModelError, match="it is no checkpoint, or holds more than tensors"):
        load_torch(f"timm:deit_tiny_patch16_224?depth=1&checkpoint={here / 'evil.pth'}")
    assert not (here / "owned").exists()


def test_a_checkpoint_may_have_any_path_and_a_wrapper(here: Path) -> None:
    need_timm()
    module, _ = load_torch("timm:deit_tiny_patch16_224?depth=1")
    weights = {f"module.{key}": torch.ones_like(tensor) for key, tensor in module.state_dict().items()}
    torch.save({"model": weights, "epoch": 3}, here / "a+b 1%20.pth")
    loaded, _ = load_torch("timm:deit_tiny_patch16_224?depth=1&checkpoint=a+b 1%20.pth")
    assert all((tensor == 1).all() for tensor in loaded.state_dict().values())


def test_timm_says_what_it_does_not_know(deit: str) -> None:
    for source, message in (
        ("timm:no_such_model", "timm cannot make `no_such_model`: RuntimeError: Unknown model (no_such_model)"),
        ("timm:deit_tiny_patch16_224?foo=3", "unexpected keyword argument 'foo'"),
        (
            deit.replace("tiny_patch16_224?", "small_patch16_224?"),
            "`cls_token` has shape [1, 1, 192], expected [1, 1, 384]",
        ),
        (deit.replace("?", "?depth=2&"), "does not fit timm's `deit_tiny_patch16_224`: it has unknown 120 weights"),
    ):
        with pytest.raises(ModelError) as caught:
            load_torch(source)
        assert message in caught.value.message
        assert caught.value.hint


def test_timm_options_reach_the_model(here: Path) -> None:
    need_timm()
    module, (example,) = load_torch("timm:vit_small_patch14_dinov2?img_size=56&depth=1&fused=false")
    assert example.shape == (1, 3, 56, 56)
    assert not module.blocks[0].attn.fused_attn
    export = export_torch("timm:deit_tiny_patch16_224?depth=1", here / "m.onnx", exporter="torchscript")
    assert export.inputs == ("image",)
    assert "random weights" in export.warnings[0]


def test_published_weights_recognise_photographs(deit: str, photographs: Path, here: Path) -> None:
    export = export_torch(deit, here / "deit.onnx", dynamic_batch=True)
    assert export.warnings == ()
    assert export.max_abs_error < 1e-4  # rounding of logits up to 10 through 12 blocks
    dense = OnnxReference(export.path, threads=1)
    data = open_dataset(photographs, dense.runner.inputs).subset(range(20))
    wrong = {}
    for names, feed in data.feeds(batch=5):
        for name, row in zip(names, dense.run(feed)["output"], strict=True):
            if row.argmax() != int(name[:3]):
                wrong[int(name[:3])] = int(row.argmax())
    assert wrong == {4: 842, 6: 5, 10: 143}
    drift = measure_drift(TorchReference(deit), dense, data.subset(range(4)), batch=2)["output"]
    assert drift.top1_agreement == 1
    assert drift.relative_error < 1e-5  # fp32 rounding through 12 blocks
