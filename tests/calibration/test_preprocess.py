from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.core.errors import DataError
from edgeprune_calibration.data import TensorSpec, open_dataset
from edgeprune_calibration.preprocess import PRESETS, Preprocess, load_preprocess

IMAGE = TensorSpec("image", (1, 3, 224, 224))


def first(path: Path, spec: TensorSpec = IMAGE, preprocess: Preprocess | None = None) -> np.ndarray:
    _, feed = next(open_dataset(path, [spec], preprocess=preprocess).feeds())
    return feed[spec.name][0]


def test_a_256_photograph_is_cropped_and_not_resampled(photographs: Path) -> None:
    path = photographs / "000_n01440764.jpg"
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float64)[16:240, 16:240] / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    # float32 rounding of values up to 2.7
    np.testing.assert_allclose(first(path), expected.transpose(2, 0, 1), atol=2e-6)


def test_the_short_side_is_resized_to_crop_over_0875(tmp_path: Path) -> None:
    # Left half black, right half white: resized to 256x512, the edge is in the middle of the middle 224 columns.
    pixels = np.zeros((128, 256, 3), np.uint8)
    pixels[:, 128:] = 255
    Image.fromarray(pixels).save(tmp_path / "edge.png")
    red = first(tmp_path / "edge.png", preprocess=PRESETS["half"])[0]
    assert red.shape == (224, 224)
    assert np.all(red[:, :108] == -1)
    assert np.all(red[:, 116:] == 1)


def test_clip_resizes_the_short_side_to_the_input(tmp_path: Path) -> None:
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[:16] = 255  # a crop of 224 out of 256 would lose exactly these rows
    Image.fromarray(pixels).save(tmp_path / "top.png")
    clip = PRESETS["clip"]
    white = (1 - clip.mean[0]) / clip.std[0]
    assert first(tmp_path / "top.png", preprocess=clip)[0, 0, 0] == pytest.approx(white, abs=1e-5)
    assert first(tmp_path / "top.png")[0].max() < 0


def test_a_file_sets_layout_order_stretch_and_interpolation(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        "mean = [0, 0, 0]\nstd = [1, 1, 1]\nscale = 1.0\nlayout = 'NHWC'\norder = 'BGR'\n"
        "resize = 'stretch'\ninterpolation = 'nearest'\n"
    )
    preprocess = load_preprocess(tmp_path / "p.toml")
    pixels = np.zeros((4, 2, 3), np.uint8)
    pixels[...] = (10, 20, 30)
    pixels[:2] = (40, 50, 60)
    Image.fromarray(pixels).save(tmp_path / "i.png")
    got = first(tmp_path / "i.png", TensorSpec("x", (1, 2, 4, 3)), preprocess)
    assert got.shape == (2, 4, 3)
    assert got[0, 0].tolist() == [60, 50, 40]
    assert got[1, 3].tolist() == [30, 20, 10]


def test_grey_images_feed_one_channel(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 51, np.uint8)).save(tmp_path / "g.png")
    grey = Preprocess(mean=(0.0,), std=(1.0,), crop=1.0)
    got = first(tmp_path / "g.png", TensorSpec("x", (1, 1, 8, 8)), grey)
    assert got == pytest.approx(np.full((1, 8, 8), 0.2), abs=1e-7)


def test_an_open_image_size_is_taken_from_the_file(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "i.png")
    spec = TensorSpec("x", (None, 3, None, None))
    sized = Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3, size=(16, 24))
    assert first(tmp_path / "i.png", spec, sized).shape == (3, 16, 24)
    with pytest.raises(DataError, match="leaves the image size open") as caught:
        first(tmp_path / "i.png", spec)
    assert caught.value.hint == "say it: --input x:1x3x224x224"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("std = [1, 1, 1]", "lacks the field `mean`"),
        ("mean = [0, 0, 0]\nstd = [1, 1, 1]\nsdt = 3", "has an unknown field `sdt`"),
        ("mean = [0, 0, 0]\nstd = [1, 1]", "field `std`: 2 numbers, expected 3 as in mean"),
        ("mean = [0, 0, 0]\nstd = [1, 1, 0]", "field `std`: [1.0, 1.0, 0.0], expected numbers above 0"),
        ("mean = [0, 0]\nstd = [1, 1]", "field `mean`: 2 numbers, expected 1 or 3"),
        ("mean = [0, 'a', 0]\nstd = [1, 1, 1]", "field `mean[1]`: expected `float`, got `str`"),
        ("mean = [0, 0, 0]\nstd = [1, 1, 1]\ncrop = 1.5", "field `crop`: 1.5, expected a number in (0, 1]"),
        ("mean = [0, 0, 0]\nstd = [1, 1, 1]\nlayout = 'CHW'", "field `layout`: invalid enum value 'CHW'"),
        ("mean = [0, 0", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_preprocess(path)
    assert caught.value.message.startswith(str(path))
    assert message in caught.value.message
    assert caught.value.hint


def test_unknown_names_and_absent_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no preprocessing is named `imagnet`"):
        load_preprocess("imagnet")
    with pytest.raises(DataError, match=r"cannot read .*absent\.toml: No such file"):
        load_preprocess(tmp_path / "absent.toml")
