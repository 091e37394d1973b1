"""Photographs: found in a folder, decoded one at a time, cropped and normalised."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeprune.core.errors import DataError
from edgeprune_calibration._specs import Array, TensorSpec, show_shape
from edgeprune_calibration.preprocess import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})


def find_images(folder: Path) -> list[Path]:
    """List the images in `folder` and below it, sorted by path."""
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files as samples of one graph input.

    Attributes:
        paths: one file a sample.
        spec: of the graph input.
        preprocess: from pixels to the input.
        size: height and width of the input.
    """

    paths: tuple[Path, ...]
    spec: TensorSpec
    preprocess: Preprocess
    size: tuple[int, int]

    def sample(self, index: int) -> dict[str, Array]:
        """Decode and normalise one image.

        Raises:
            DataError: if it does not decode; the message counts the other files that do not.
        """
        try:
            pixels = decode(self.paths[index], self.preprocess, self.size)
        except _failures() as exc:
            raise self._broken(index, exc) from exc
        return {self.spec.name: normalise(pixels, self.preprocess).astype(self.spec.dtype)}

    def _broken(self, index: int, exc: BaseException) -> DataError:
        others = sum(not _decodes(path) for at, path in enumerate(self.paths) if at != index)
        more = f", nor do {others} more of {len(self.paths)}" if others else ""
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        reason = "no image that Pillow knows" if "cannot identify" in reason else reason
        return DataError(
            f"{self.paths[index]} does not decode ({reason}){more}", hint="remove the file, or save it again"
        )


def open_images(paths: list[Path], specs: tuple[TensorSpec, ...], preprocess: Preprocess) -> ImageFiles:
    """Check that `paths` are images and that the model has one image input.

    Raises:
        DataError: if a file is no image, or the model takes something else.
    """
    spec = _image_input(specs, preprocess)
    height, width = _input_size(spec, preprocess)
    files = ImageFiles(tuple(paths), spec, preprocess, (height, width))
    for index, path in enumerate(paths):
        if not _has_header(path):
            files.sample(index)
    return files


def _image_input(specs: tuple[TensorSpec, ...], preprocess: Preprocess) -> TensorSpec:
    if len(specs) != 1:
        msg = f"images feed one input, the model has {len(specs)}: {', '.join(spec.name for spec in specs)}"
        raise DataError(msg, hint="give a .npz with one array per input")
    (spec,) = specs
    channel = 1 if preprocess.layout == "NCHW" else 3
    fits = (
        len(spec.shape) == 4 and spec.dtype.startswith("float") and spec.shape[channel] in (None, preprocess.channels)
    )
    if not fits:
        msg = f"input {spec} takes no image of {preprocess.channels} channels in {preprocess.layout}"
        raise DataError(msg, hint="give a .npy or .npz, or another --preprocess")
    return spec


def _input_size(spec: TensorSpec, preprocess: Preprocess) -> tuple[int, int]:
    declared = spec.shape[2:] if preprocess.layout == "NCHW" else spec.shape[1:3]
    wanted = preprocess.size or (None, None)
    height, width = (have or want for have, want in zip(declared, wanted, strict=True))
    if height is None or width is None:
        msg = f"input {spec} leaves the image size open"
        raise DataError(msg, hint=f"say it: --input {spec.name}:1x3x224x224")
    if preprocess.size and (height, width) != preprocess.size:
        msg = (
            f"preprocessing makes images of {show_shape(preprocess.size)}, expected {height}x{width} for `{spec.name}`"
        )
        raise DataError(msg, hint="leave `size` out of the preprocessing: the model says it")
    return height, width


def decode(path: Path, preprocess: Preprocess, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Read one image upright, as [H, W, C] pixels of the input's size.

    Raises:
        ValueError: if the pixels are of a kind without a known range.
    """
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF, large images: nothing that a user can act on here
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image = _to_eight_bits(image).convert("L" if preprocess.channels == 1 else "RGB")
    pixels = np.asarray(_fit(image, preprocess, size), dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def normalise(pixels: npt.NDArray[np.uint8], preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """From [H, W, C] pixels to a float32 sample in the layout and order of `preprocess`."""
    mean, std = np.asarray(preprocess.mean, np.float32), np.asarray(preprocess.std, np.float32)
    ordered = pixels[..., ::-1] if preprocess.order == "BGR" else pixels
    values = (ordered.astype(np.float32) * np.float32(preprocess.scale) - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1) if preprocess.layout == "NCHW" else values)


def _fit(image: Image, preprocess: Preprocess, size: tuple[int, int]) -> Image:
    from PIL.Image import Resampling

    height, width = size
    filter_ = Resampling[preprocess.interpolation.upper()]
    if preprocess.resize == "stretch":
        return image if image.size == (width, height) else image.resize((width, height), filter_)
    # The smallest size of the image's own aspect ratio that covers input / crop: for a square input, its short side.
    cover = max(round(width / preprocess.crop) / image.width, round(height / preprocess.crop) / image.height)
    resized = (max(width, round(image.width * cover)), max(height, round(image.height * cover)))
    if image.size != resized:
        image = image.resize(resized, filter_)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _to_eight_bits(image: Image) -> Image:
    from PIL.Image import fromarray

    if image.mode.startswith("I;16"):  # convert() would clip everything above 255 to white
        return fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        msg = f"pixels of mode {image.mode} have no known range"
        raise ValueError(msg)
    return image


def _has_header(path: Path) -> bool:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path).close()
    except _failures():
        return False
    return True


def _decodes(path: Path) -> bool:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                _to_eight_bits(image).load()
    except _failures():
        return False
    return True


def _failures() -> tuple[type[Exception], ...]:
    """What Pillow raises on files that are damaged, hostile, or no images."""
    from PIL.Image import DecompressionBombError

    return (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError, DecompressionBombError)
