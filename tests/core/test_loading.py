"""Model files are data: what is unsound in one is said, and nothing outside its folder is opened."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper  # noqa: TID251 - files as others write them

from edgeprune.core.errors import ModelError
from edgeprune.core.loading import digest_of, read_model
from edgeprune.core.saving import save_model


def made(weight: np.ndarray, opset: int = 17) -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.fixture
def weight() -> np.ndarray:
    return np.arange(12, dtype=np.float32).reshape(4, 3)


def external(tmp_path, weight, location="w.bin"):
    path = tmp_path / "m.onnx"
    onnx.save(made(weight), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    onnx.save(model, path)
    return path


def refused(path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        read_model(path)
    assert caught.value.hint
    return caught.value


def test_what_is_sound_is_read(tmp_path, weight):
    path = external(tmp_path, weight)
    source = read_model(path)
    assert np.array_equal(source.model.graph.initializers["w"].const_value.numpy(), weight)


def test_the_digest_covers_external_data(tmp_path, weight):
    path = external(tmp_path, weight)
    first = read_model(path).sha256
    (tmp_path / "w.bin").write_bytes((weight + 1).tobytes())
    assert read_model(path).sha256 != first


def test_a_missing_file(tmp_path):
    assert "no such model file" in refused(tmp_path / "none.onnx").message


@pytest.mark.parametrize("data", [b"", b"not onnx at all", b"\x08\x0a\x3a\xff\xff"])
def test_not_onnx(tmp_path, data):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert refused(path).message.startswith(("not a readable ONNX file", "the model has no nodes"))


@pytest.mark.parametrize("location", ["../w.bin", "../../etc/passwd", "/etc/passwd"])
def test_external_data_may_not_leave_the_folder(tmp_path, weight, location):
    (tmp_path / "w.bin").write_bytes(weight.tobytes())
    inner = tmp_path / "inner"
    inner.mkdir()
    assert "lies outside the model's folder" in refused(external(inner, weight, location)).message


def test_a_link_that_leaves_the_folder_is_outside_too(tmp_path, weight):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = external(inner, weight)
    (inner / "w.bin").rename(tmp_path / "elsewhere.bin")
    (inner / "w.bin").symlink_to(tmp_path / "elsewhere.bin")
    assert "lies outside" in refused(path).message


def test_external_data_that_is_missing_or_short(tmp_path, weight):
    path = external(tmp_path, weight)
    data = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(data[:-4])
    assert refused(path).message == "the external data file is too short for the weight `w`: w.bin"
    (tmp_path / "w.bin").unlink()
    assert refused(path).message == "the external data file is missing: w.bin"


def test_weights_that_are_nan(tmp_path, weight):
    weight[2, 1] = np.nan
    path = tmp_path / "m.onnx"
    onnx.save(made(weight), path)
    assert refused(path).message == "the weight `w` holds NaN"


@pytest.mark.parametrize("opset", [9, 12])
def test_an_opset_that_is_too_old(tmp_path, weight, opset):
    path = tmp_path / "m.onnx"
    onnx.save(made(weight, opset), path)
    assert refused(path).message == f"the model has opset {opset}, expected 13 to 25"


def test_saving_gives_what_protobuf_reads(tmp_path, weight):
    source, path = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(made(weight), source)
    save_model(read_model(source).model, path)
    again = onnx.load(path)
    onnx.checker.check_model(again, full_check=True)
    assert np.array_equal(numpy_helper.to_array(again.graph.initializer[0]), weight)
    assert digest_of(path) == read_model(path).sha256


def test_saving_beyond_the_limit_writes_a_file_beside(tmp_path, weight, monkeypatch):
    monkeypatch.setattr("edgeprune.core.saving.INLINE_BYTES", 10)
    weight = np.tile(weight, (1, 100))  # small weights stay in the graph
    path = tmp_path / "big.onnx"
    save_model(ir.from_proto(made(weight)), path)
    assert (tmp_path / "big.onnx.data").stat().st_size >= weight.nbytes
    assert digest_of(path) == read_model(path).sha256
