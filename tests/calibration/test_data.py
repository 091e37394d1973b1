from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.core.errors import DataError
from edgeprune_calibration.data import TensorSpec, open_dataset
from edgeprune_calibration.preprocess import PRESETS

IMAGE = TensorSpec("image", (1, 3, 32, 32))
VECTOR = TensorSpec("x", (1, 4))
IDS = TensorSpec("input_ids", (1, 5), "int64")
MASK = TensorSpec("attention_mask", (1, 5), "int64")


def save(path: Path, shade: int, size: tuple[int, int] = (40, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)


def test_a_folder_is_read_in_order_with_what_lies_below(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "sub/c.webp", "d.bmp", "e.tif"):
        save(tmp_path / name, 100)
    (tmp_path / "notes.txt").write_text("no image")
    data = open_dataset(tmp_path, [IMAGE])
    assert data.names == ("a.jpg", "b.png", "d.bmp", "e.tif", "sub/c.webp")


def test_samples_are_evenly_spaced(photographs: Path) -> None:
    data = open_dataset(photographs, [TensorSpec("image", (1, 3, 224, 224))], samples=100)
    every = open_dataset(photographs, [TensorSpec("image", (1, 3, 224, 224))])
    assert data.names == every.names[::5]
    assert len(every) == 500


def test_a_short_last_batch_is_filled_up_but_not_named(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.save(tmp_path / "v.npy", values)
    batches = list(open_dataset(tmp_path / "v.npy", [VECTOR]).feeds(batch=2))
    assert [names for names, _ in batches] == [("v.npy[0]", "v.npy[1]"), ("v.npy[2]", "v.npy[3]"), ("v.npy[4]",)]
    assert all(feed["x"].shape == (2, 4) for _, feed in batches)
    np.testing.assert_array_equal(batches[2][1]["x"][0], values[4])


def test_subset_and_indices_keep_names_with_their_samples(tmp_path: Path) -> None:
    values = np.arange(40, dtype=np.float32).reshape(10, 4)
    np.save(tmp_path / "v.npy", values)
    data = open_dataset(tmp_path / "v.npy", [VECTOR]).subset([9, 2, 4])
    ((names, feed),) = data.feeds([2, 0], batch=2)
    assert names == ("v.npy[4]", "v.npy[9]")
    np.testing.assert_array_equal(feed["x"], values[[4, 9]])


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 3  # turned by 180 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    data = open_dataset(tmp_path / "turned.png", [IMAGE], preprocess=PRESETS["clip"])
    _, feed = next(data.feeds())
    assert feed["image"][0, 0, 0, 0] < 0 < feed["image"][0, 0, 31, 31]


def test_sixteen_bit_images_keep_their_range(tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 32), 0x8080, np.uint16)).save(tmp_path / "deep.png")
    _, feed = next(open_dataset(tmp_path / "deep.png", [IMAGE], preprocess=PRESETS["half"]).feeds())
    assert feed["image"].max() == pytest.approx(2 * 128 / 255 - 1, abs=1e-6)


def test_images_that_do_not_decode_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path / f"{index}.png", 50)
    for index in (1, 3):
        whole = (tmp_path / f"{index}.png").read_bytes()
        (tmp_path / f"{index}.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        list(open_dataset(tmp_path, [IMAGE]).feeds())
    assert caught.value.message.startswith(f"{tmp_path / '1.png'} does not decode")
    assert caught.value.message.endswith(", nor do 1 more of 4")


def test_what_is_no_image_is_found_when_the_data_is_opened(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 50)
    (tmp_path / "b.jpg").write_text("hello")
    with pytest.raises(DataError, match=r"b\.jpg does not decode \(no image that Pillow knows\) \(hint"):
        open_dataset(tmp_path, [IMAGE])


def test_an_image_bomb_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png", 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"a\.png does not decode \(Image size \(1600 pixels\) exceeds limit"):
        open_dataset(tmp_path, [IMAGE])


def test_npz_feeds_inputs_by_name(tmp_path: Path) -> None:
    ids = np.arange(15, dtype=np.int32).reshape(3, 5)
    np.savez(tmp_path / "t.npz", input_ids=ids, attention_mask=np.ones((3, 5), np.int64), labels=np.zeros(3))
    data = open_dataset(tmp_path / "t.npz", [IDS, MASK])
    ((_, feed),) = data.feeds(batch=3)
    assert feed["input_ids"].dtype == np.int64
    np.testing.assert_array_equal(feed["input_ids"], ids)
    assert set(feed) == {"input_ids", "attention_mask"}


def test_npz_with_one_array_feeds_one_input_whatever_its_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", np.ones((3, 4), np.float64))
    assert len(open_dataset(tmp_path / "one.npz", [VECTOR])) == 3


def test_a_folder_of_arrays_is_one_row_of_samples(tmp_path: Path) -> None:
    for name, count in (("b.npz", 2), ("a.npz", 3)):
        ids = np.arange(5 * count).reshape(count, 5)
        np.savez(tmp_path / name, input_ids=ids, attention_mask=np.ones_like(ids))
    (tmp_path / "below").mkdir()
    np.savez(tmp_path / "below" / "one.npz", input_ids=np.full(5, 9), attention_mask=np.ones(5, int))
    data = open_dataset(tmp_path, [IDS, MASK])
    assert data.names == ("a.npz[0]", "a.npz[1]", "a.npz[2]", "b.npz[0]", "b.npz[1]", "below/one.npz[0]")
    rows = [feed["input_ids"][0, 0] for _, feed in data.feeds()]
    assert rows == [0, 5, 10, 0, 5, 9]
    assert [feed["input_ids"][0, 0] for _, feed in data.subset([4]).feeds()] == [5]
    assert open_dataset(tmp_path, [IDS, MASK], samples=2).names == ("a.npz[0]", "b.npz[0]")


def test_a_file_of_a_folder_that_does_not_fit_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", input_ids=np.zeros((2, 5), int), attention_mask=np.ones((2, 5), int))
    np.savez(tmp_path / "b.npz", input_ids=np.zeros((2, 7), int), attention_mask=np.ones((2, 7), int))
    with pytest.raises(DataError, match=r"b\.npz has shape 2x7, expected Nx5 for input `input_ids`") as caught:
        open_dataset(tmp_path, [IDS, MASK])
    assert caught.value.hint == "axis 0 counts the samples; the other axes are those of the model's input"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module in the current folder that is not on the path."""
    (tmp_path / "feeder_of_tests.py").write_text(
        "import itertools, numpy as np\n"
        "def endless():\n    return (np.full((2, 4), i, np.float32) for i in itertools.count())\n"
        "def pairs():\n    yield {'input_ids': np.zeros((1, 5), int), 'attention_mask': np.ones((1, 5), int)}\n"
        "def labelled():\n    yield np.zeros((1, 4), np.float32), 3\n"
        "def broken():\n    raise RuntimeError('the disk is gone')\n"
        "def nothing():\n    return []\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "feeder_of_tests"
    sys.modules.pop("feeder_of_tests", None)


def test_a_callable_in_the_current_folder_feeds_batches(module: str) -> None:
    data = open_dataset(f"{module}:endless", [VECTOR], samples=5)
    assert len(data) == 5
    ((_, feed),) = data.feeds(batch=5)
    assert feed["x"][:, 0].tolist() == [0, 0, 1, 1, 2]
    assert len(open_dataset(f"{module}:pairs", [IDS, MASK])) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("labelled", "yields is a tuple, expected an array or a dict"),
        ("broken", "failed: RuntimeError: the disk is gone"),
        ("nothing", "yielded nothing"),
        ("number", "is a int, expected a callable"),
        ("absent", "has no `absent`"),
    ],
)
def test_a_callable_that_feeds_nothing_usable_is_refused(module: str, name: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(f"{module}:{name}", [VECTOR])
    assert message in caught.value.message
    assert caught.value.hint


def write_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 5), np.float32), "a.npy has shape 3x5, expected Nx4 for input `x`"),
        (np.zeros((3, 4), np.uint8), "a.npy holds uint8, expected float32 for input `x`"),
        (np.zeros((0, 4), np.float32), "a.npy holds no samples"),
        (np.array([[1, 2, 3, np.nan]]), "a.npy[0] holds NaN, expected finite numbers for input `x`"),
        (np.array([[1, 2, 3, np.inf]]), "a.npy[0] holds Inf, expected finite numbers for input `x`"),
        (np.array([[1, 2, 3, 1e300]]), "a.npy[0] holds numbers outside float32, the type of input `x`"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    path = write_npy(tmp_path / "a.npy", array)
    with pytest.raises(DataError) as caught:
        list(open_dataset(path, [VECTOR]).feeds())
    assert caught.value.message == message
    assert caught.value.hint


def test_an_integer_outside_the_input_type_is_refused(tmp_path: Path) -> None:
    path = write_npy(tmp_path / "a.npy", np.array([[2**40] * 5]))
    with pytest.raises(DataError, match=r"a\.npy\[0\] holds numbers outside int32"):
        list(open_dataset(path, [TensorSpec("ids", (1, 5), "int32")]).feeds())


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.npy").write_bytes(b"not numpy")
    (tmp_path / "a.csv").write_text("1,2")
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "m.npz", input_ids=np.zeros((3, 5), int))
    np.savez(tmp_path / "d.npz", input_ids=np.zeros((3, 5), int), attention_mask=np.zeros((2, 5), int))
    for name, specs, message in (
        ("empty", [IMAGE], "holds no images and no arrays"),
        ("absent", [IMAGE], "no such file or folder"),
        ("a.npy", [VECTOR], "cannot read"),
        ("o.npy", [VECTOR], "it is no numpy file, or holds Python objects"),
        ("a.csv", [VECTOR], "is of no known kind of data: `.csv`"),
        ("m.npz", [IDS, MASK], "lacks an array `attention_mask`, it holds input_ids"),
        ("d.npz", [IDS, MASK], "different numbers of samples: input_ids 3, attention_mask 2"),
        ("o.npy", [IDS, MASK], "holds one array, the model has 2 inputs: input_ids, attention_mask"),
        ("empty", [], "no input with a batch axis"),
    ):
        with pytest.raises(DataError) as caught:
            open_dataset(tmp_path / name, specs)
        assert message in caught.value.message
        assert caught.value.hint


def test_images_need_one_image_input(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 50)
    with pytest.raises(DataError, match="images feed one input, the model has 2: input_ids, attention_mask"):
        open_dataset(tmp_path, [IDS, MASK])
    with pytest.raises(DataError, match="input x float32 1x4 takes no image of 3 channels in NCHW"):
        open_dataset(tmp_path, [VECTOR])
