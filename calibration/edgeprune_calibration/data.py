"""Data to run a model on: samples with names, decoded when they are asked for.

Sources: a folder of images (below it too), one image, `.npy` ([n, ...], one input), `.npz` (one array per input), a
folder of either, or 'pkg.module:callable' that returns an iterable of arrays or of dicts by input name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from edgeprune.core.errors import DataError
from edgeprune_calibration._arrays import SUFFIXES as ARRAY_SUFFIXES
from edgeprune_calibration._arrays import find_arrays, open_callable, open_file, open_files
from edgeprune_calibration._images import SUFFIXES, find_images, open_images
from edgeprune_calibration._imports import is_reference
from edgeprune_calibration._specs import Array, TensorSpec
from edgeprune_calibration.preprocess import PRESETS, Preprocess

__all__ = ["Dataset", "Feed", "TensorSpec", "open_dataset"]

Feed: TypeAlias = dict[str, Array]


class Samples(Protocol):
    """Something that makes one sample at a time: an array without batch axis for each graph input."""

    def sample(self, index: int) -> Feed:
        """Make one sample."""
        ...


@dataclass(frozen=True, slots=True)
class Dataset:
    """Named samples, made when they are asked for.

    Attributes:
        names: one a sample, unique.
        samples: makes them.
        positions: of the samples in `samples`.
    """

    names: tuple[str, ...]
    samples: Samples
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.positions)

    def feeds(self, indices: Sequence[int] | None = None, batch: int = 1) -> Iterator[tuple[tuple[str, ...], Feed]]:
        """Yield (names, feed) for the samples at `indices`, all where it is None, `batch` at a time.

        Every feed holds exactly `batch` samples, since compiled shapes are static. If the last one runs short, it is
        filled up with its own last sample, and `names` holds the real ones only: read `output[: len(names)]`.
        """
        order = range(len(self)) if indices is None else indices
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            made = [self.samples.sample(self.positions[index]) for index in chosen]
            made += [made[-1]] * (batch - len(made))
            feed = {name: np.stack([sample[name] for sample in made]) for name in made[0]}
            yield tuple(self.names[index] for index in chosen), feed

    def subset(self, indices: Sequence[int]) -> Dataset:
        """Keep the samples at `indices`, in their order."""
        return Dataset(
            tuple(self.names[index] for index in indices),
            self.samples,
            tuple(self.positions[index] for index in indices),
        )


def open_dataset(
    source: str | Path,
    specs: Sequence[TensorSpec],
    *,
    preprocess: Preprocess | None = None,
    samples: int | None = None,
    seed: int = 0,  # noqa: ARG001 (reserved: which samples are taken does not depend on chance)
) -> Dataset:
    """Open data for a model with inputs `specs`; `preprocess` is for images, ImageNet's where it is None.

    `samples` of the data are taken, evenly spaced over its order: sample i is number floor(i * n / samples) of n. Of a
    callable's stream the first are taken.

    Raises:
        DataError: if the source is nothing of the known kinds, is empty, or does not fit the model's inputs.
    """
    inputs = tuple(specs)
    if not inputs or any(not spec.shape for spec in inputs):
        msg = "the model has no input with a batch axis, so no data can feed it"
        raise DataError(msg, hint="export the model with a batch axis first in every input")
    path = Path(source)
    if path.is_dir():
        return _folder(path, inputs, preprocess, samples)
    if path.is_file():
        return _file(path, inputs, preprocess, samples)
    if isinstance(source, str) and is_reference(source):
        arrays = open_callable(source, inputs, samples)
        return _spaced(arrays.names, arrays, None)
    msg = f"no data at {source}: no such file or folder"
    raise DataError(msg, hint="give a folder of images, an image, a .npy, a .npz, or pkg.module:callable")


def _folder(path: Path, specs: tuple[TensorSpec, ...], preprocess: Preprocess | None, samples: int | None) -> Dataset:
    """Images, or where there are none arrays.

    Raises:
        DataError: if there is neither, or it does not fit.
    """
    images, arrays = find_images(path), find_arrays(path)
    if images:
        return _images(images, path, specs, preprocess, samples)
    if arrays:
        files = open_files(arrays, path, specs)
        return _spaced(files.names, files, samples)
    msg = f"{path} holds no images and no arrays"
    raise DataError(msg, hint=f"images end in {', '.join(sorted(SUFFIXES))}, arrays in .npy or .npz")


def _file(path: Path, specs: tuple[TensorSpec, ...], preprocess: Preprocess | None, samples: int | None) -> Dataset:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return _images([path], path.parent, specs, preprocess, samples)
    if suffix not in ARRAY_SUFFIXES:
        msg = f"{path} is of no known kind of data: `{suffix or path.name}`"
        raise DataError(msg, hint="give a folder of images, an image, a .npy, a .npz, or pkg.module:callable")
    arrays = open_file(path, specs)
    return _spaced(arrays.names, arrays, samples)


def _images(
    paths: list[Path], folder: Path, specs: tuple[TensorSpec, ...], preprocess: Preprocess | None, samples: int | None
) -> Dataset:
    chosen = [paths[index] for index in _even(len(paths), samples)]
    files = open_images(chosen, specs, preprocess or PRESETS["imagenet"])
    return _spaced(tuple(path.relative_to(folder).as_posix() for path in chosen), files, None)


def _spaced(names: tuple[str, ...], made_by: Samples, samples: int | None) -> Dataset:
    positions = _even(len(names), samples)
    return Dataset(tuple(names[index] for index in positions), made_by, positions)


def _even(count: int, samples: int | None) -> tuple[int, ...]:
    wanted = count if samples is None else min(samples, count)
    return tuple(index * count // wanted for index in range(wanted))
