"""Small pictures of samples, as the model sees them: after the crop."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeprune_calibration._images import ImageFiles, decode

if TYPE_CHECKING:
    from edgeprune_calibration._specs import Array
    from edgeprune_calibration.data import Dataset

FOLDER = "samples"
SIDE = 256
_SMALL = 128
_QUALITY = 82


def save_thumbnail(dataset: Dataset, index: int, folder: Path) -> str | None:
    """Save a sample's picture, no side longer than 256; None where the sample is no picture.

    Returns:
        The file, relative to `folder`. The same sample has the same file each time.

    Raises:
        OSError: if it cannot be written.
    """
    pixels = _pixels(dataset, index)
    if pixels is None:
        return None
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if max(image.size) < _SMALL:  # a few pixels: whole copies of each, so that they can be told apart
        factor = -(-_SMALL // max(image.size))
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((SIDE, SIDE))
    name = f"{FOLDER}/{_file_name(dataset.names[index])}"
    (folder / FOLDER).mkdir(exist_ok=True)
    image.save(folder / name, format="JPEG", quality=_QUALITY, optimize=True)
    return name


def _file_name(sample: str) -> str:
    """A name that every file system takes, unique for the sample."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(sample).stem).strip("-")[:48]
    return f"{stem or 'sample'}-{hashlib.sha256(sample.encode()).hexdigest()[:8]}.jpg"


def _pixels(dataset: Dataset, index: int) -> Array | None:
    """[H,W,C] bytes: of an image file what is cropped from it; of an array its values, stretched to their range."""
    files, position = dataset.samples, dataset.positions[index]
    if isinstance(files, ImageFiles):
        return decode(files.paths[position], files.preprocess, files.size)
    arrays = [array for array in files.sample(position).values() if array.ndim == 3]
    if len(arrays) != 1:
        return None
    (array,) = arrays
    if array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.shape[2] not in (1, 3) or not np.isfinite(array).all():
        return None
    low, high = float(array.min()), float(array.max())
    return np.asarray(np.round((array - low) * (255.0 / ((high - low) or 1.0))), dtype=np.uint8)
