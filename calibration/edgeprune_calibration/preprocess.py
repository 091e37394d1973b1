"""From a photograph to the numbers that a model was trained on: geometry, scale, mean and deviation.

    value = (pixel * scale - mean) / std

Presets: `imagenet`, `half`, `clip`. Everything else is a TOML file with the fields of `Preprocess`:

    mean = [0.5, 0.5, 0.5]       # needed; one number a channel, 1 or 3 of them
    std = [0.25, 0.25, 0.25]     # needed
    resize = "short-side"        # or "stretch": to the input's size, whatever the aspect ratio
    crop = 0.875                 # share of the resized short side that is kept, in (0, 1]
    size = [224, 224]            # height and width where the model leaves them open
    interpolation = "bicubic"    # or "bilinear", "lanczos", "nearest"
    scale = 0.00392156862745098  # of a pixel 0..255
    layout = "NCHW"              # or "NHWC"
    order = "RGB"                # or "BGR"
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import msgspec

from edgeprune.core.errors import DataError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NEEDED = ("mean", "std")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How a photograph becomes a model's input.

    Attributes:
        mean: per channel, of pixels times `scale`; one number is grey, three are colour.
        std: per channel, of pixels times `scale`.
        resize: 'short-side' keeps the aspect ratio and crops the middle; 'stretch' does neither.
        crop: size of the input as a share of the resized short side; only 'short-side' reads it.
        size: height and width for a model that leaves them open; where it does not, the model's own count.
        interpolation: of the resize; an image that has the size already is not resampled.
        scale: of a pixel 0..255.
        layout: 'NCHW' or 'NHWC', the order of the input's axes.
        order: of the channels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Literal["short-side", "stretch"] = "short-side"
    crop: float = 0.875
    size: tuple[int, int] | None = None
    interpolation: Literal["bicubic", "bilinear", "lanczos", "nearest"] = "bicubic"
    scale: float = 1 / 255
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    order: Literal["RGB", "BGR"] = "RGB"

    @property
    def channels(self) -> int:
        """Number of channels: 1 is grey, 3 is colour."""
        return len(self.mean)


# DeiT evaluates at 256 -> 224, CLIP resizes the short side to the input's size itself.
_IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_HALF = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
_CLIP = Preprocess(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711), crop=1.0)
PRESETS = {"imagenet": _IMAGENET, "half": _HALF, "clip": _CLIP}


def load_preprocess(name_or_path: str | Path) -> Preprocess:
    """Return a preset by name, or read a TOML file.

    Raises:
        DataError: if there is no such preset or file, or the file has a wrong, missing or unknown field.
    """
    if str(name_or_path) in PRESETS:
        return PRESETS[str(name_or_path)]
    path = Path(name_or_path)
    if path.suffix != ".toml":
        msg = f"no preprocessing is named `{name_or_path}`"
        raise DataError(msg, hint=f"use {', '.join(PRESETS)}, or a TOML file")
    return _check_ranges(_convert(_read(path), path), path)


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        msg = f"cannot read {path}: {exc.strerror or exc}"
        raise DataError(msg, hint=f"use {', '.join(PRESETS)}, or the path of a TOML file") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        msg = f"{path} is not TOML: {exc}"
        raise DataError(msg, hint="write it as: mean = [0.5, 0.5, 0.5]") from exc


def _convert(table: dict[str, object], path: Path) -> Preprocess:
    known = [each.name for each in fields(Preprocess)]
    for name in table:
        if name not in known:
            msg = f"{path} has an unknown field `{name}`"
            raise DataError(msg, hint=f"the fields are {', '.join(known)}")
    for name in _NEEDED:
        if name not in table:
            msg = f"{path} lacks the field `{name}`"
            raise DataError(msg, hint=f"add a line such as: {name} = [0.5, 0.5, 0.5]")
    try:
        return msgspec.convert(table, Preprocess)
    except msgspec.ValidationError as exc:
        what, _, where = str(exc).partition(" - at ")
        field = where.strip("`").removeprefix("$.") or "file"
        msg = f"{path}, field `{field}`: {what[0].lower()}{what[1:]}"
        raise DataError(msg, hint="`imagenet`, `half` and `clip` need no file") from exc


def _check_ranges(given: Preprocess, path: Path) -> Preprocess:
    numbers = (*given.mean, *given.std, given.scale, given.crop)
    rules = (
        (len(given.mean) in (1, 3), "mean", f"{len(given.mean)} numbers, expected 1 or 3"),
        (len(given.std) == len(given.mean), "std", f"{len(given.std)} numbers, expected {len(given.mean)} as in mean"),
        (all(math.isfinite(number) for number in numbers), "mean", "a number that is not finite"),
        (all(value > 0 for value in given.std), "std", f"{list(given.std)}, expected numbers above 0"),
        (given.scale > 0, "scale", f"{given.scale}, expected a number above 0"),
        (0 < given.crop <= 1, "crop", f"{given.crop}, expected a number in (0, 1]"),
        (given.size is None or min(given.size) > 0, "size", f"{given.size}, expected sizes above 0"),
    )
    for holds, field, found in rules:
        if not holds:
            msg = f"{path}, field `{field}`: {found}"
            raise DataError(msg, hint="`imagenet`, `half` and `clip` need no file")
    return given
