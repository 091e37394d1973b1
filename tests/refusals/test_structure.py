"""What structure says of data that cannot be used, word for word, and what it does where a fit has little to go by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgeprune
from edgeprune.core.errors import DataError, PlanError

DEMO = Path(__file__).resolve().parents[2] / "demo"
MODEL = DEMO / "digits_vit.onnx"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def images():
    return np.load(DEMO / "digits_test.npz")["image"][:12].astype(np.float32)


def compiled(array, place, model=MODEL, **asked):
    np.savez(place / "data.npz", image=array)
    given = {"mlp_keep": 0.75, "heads_keep": 0.75, **asked}
    options = edgeprune.Options(data=place / "data.npz", threads=1, engine=False, **given)
    return edgeprune.compile(model, options=options).report


def test_one_sample_is_too_few(images, tmp_path):
    with pytest.raises(DataError) as caught:
        compiled(images[:1], tmp_path)
    assert caught.value.message == "widths are chosen on 1 sample, expected 2 or more"
    assert caught.value.hint == "give --data more samples; 64 to 256 are a good number"


def test_data_of_another_shape(images, tmp_path):
    with pytest.raises(DataError) as caught:
        compiled(images[:, :, :-1], tmp_path)
    assert caught.value.message == "data.npz has shape 12x1x31x32, expected Nx1x32x32 for input `image`"
    assert caught.value.hint == "axis 0 counts the samples; the other axes are those of the model's input"


def test_an_activation_that_is_no_number(images, tmp_path):
    """The data is fine, and the model overflows on it."""
    model = onnx.load(MODEL)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 2 and array.size > 4000:
            tensor.CopyFrom(numpy_helper.from_array(array * np.float32(1e25), tensor.name))
    onnx.save(model, tmp_path / "large.onnx")
    with pytest.raises(DataError) as caught:
        compiled(images, tmp_path, tmp_path / "large.onnx")
    assert caught.value.message == "an activation at mlp.0 is NaN or infinite on data.npz[0]"
    assert caught.value.hint == "check the preprocessing of the data, and the model in ONNX Runtime"


@pytest.mark.parametrize("make", [lambda x: np.repeat(x[:1], 12, 0), np.zeros_like], ids=["one image", "black"])
def test_samples_that_are_all_the_same_still_make_a_sound_model(images, tmp_path, make):
    """Every Gram has the rank of one image, and on black ones many channels are constant."""
    report = compiled(make(images), tmp_path, head_size_keep=0.75)
    assert report.validation.widths.passed
    assert all(np.isfinite(row.error) for row in report.widths)
    assert (
        "5 samples are 325 tokens for the 256 channels at mlp.0, 1.3 for each: 20 samples would be enough, 79 plenty"
        in report.warnings
    )


def test_a_kind_of_width_that_a_model_lacks_is_named_with_the_node(tmp_path):
    from support.tiny_torch import Spelling, example, exported

    spelling = Spelling(rope=True)
    (tmp_path / "rotary.onnx").write_bytes(exported(spelling))
    np.savez(tmp_path / "data.npz", x=np.concatenate([example(spelling, 1, seed)["x"] for seed in range(4)]))
    options = edgeprune.Options(data=tmp_path / "data.npz", threads=1, engine=False, head_size_keep=0.5)
    with pytest.raises(PlanError) as caught:
        edgeprune.compile(tmp_path / "rotary.onnx", options=options)
    told = "no head-size width of this model can be cut: width-bound: the coordinates of a head are rotated, normalised"
    assert caught.value.message.startswith(f"{told} or scaled one by one (Neg node) at ")
    assert caught.value.hint == "leave out --head-size-keep"


def test_a_model_of_scans_says_why_it_has_no_such_widths():
    from support.scan_surgery import canonical_vim
    from support.tiny_vim import VimSpelling

    from edgeprune.core.recognition import recognize
    from edgeprune.core.widths.find import find_widths

    dense = canonical_vim(VimSpelling(), 1)
    widths = find_widths(dense, recognize(dense))
    assert not [group for kind in ("mlp", "heads", "head-size") for group in widths.of(kind)]
    why = widths.why_no("heads")
    assert why.startswith(": not-applicable: the blocks mix tokens by scans, which have no heads (")
    assert widths.why_no("head-size") == why
    assert widths.why_no("mlp").startswith(": ")
    assert " at " in widths.why_no("mlp")
