"""Samples that are arrays already: .npy, .npz, and what a user's own callable yields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn, cast

import numpy as np

from edgeprune.core.errors import DataError
from edgeprune_calibration._imports import describe, import_object
from edgeprune_calibration._specs import Array, TensorSpec, as_input, as_samples

SUFFIXES = frozenset({".npy", ".npz"})


@dataclass(frozen=True, slots=True)
class Arrays:
    """Stacks of samples, one for each graph input.

    Attributes:
        stacks: [n, *sample] by input name; may lie in a file.
        specs: of the graph inputs.
        names: one a sample.
    """

    stacks: dict[str, Array]
    specs: tuple[TensorSpec, ...]
    names: tuple[str, ...]

    def sample(self, index: int) -> dict[str, Array]:
        """Copy one sample, checked to be finite and in range."""
        return {spec.name: as_input(self.stacks[spec.name][index], spec, self.names[index]) for spec in self.specs}


@dataclass(frozen=True, slots=True)
class ArrayFiles:
    """Files of stacks of samples, read again for every sample: together they may be more than memory holds.

    Attributes:
        places: file, and row in it, of every sample.
        specs: of the graph inputs.
        names: one a sample.
    """

    places: tuple[tuple[Path, int], ...]
    specs: tuple[TensorSpec, ...]
    names: tuple[str, ...]

    def sample(self, index: int) -> dict[str, Array]:
        """Read one sample."""
        path, row = self.places[index]
        return open_file(path, self.specs).sample(row)


def find_arrays(folder: Path) -> list[Path]:
    """The .npy and .npz files in a folder and below it, sorted by path."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def open_files(paths: Sequence[Path], folder: Path, specs: tuple[TensorSpec, ...]) -> ArrayFiles:
    """Take a folder's files as one row of samples, each checked now.

    Raises:
        DataError: as `open_npy` and `open_npz`.
    """
    places = [(path, row) for path in paths for row in range(len(open_file(path, specs).names))]
    names = tuple(f"{path.relative_to(folder).as_posix()}[{row}]" for path, row in places)
    return ArrayFiles(tuple(places), specs, names)


def open_file(path: Path, specs: tuple[TensorSpec, ...]) -> Arrays:
    """Open a .npy or .npz.

    Raises:
        DataError: if it cannot be read, or does not fit the model's inputs.
    """
    return open_npy(path, specs) if path.suffix.lower() == ".npy" else open_npz(path, specs)


def open_npy(path: Path, specs: tuple[TensorSpec, ...]) -> Arrays:
    """Map a .npy file as the samples of the model's one input.

    Raises:
        DataError: if it is no such file, or the model has more inputs.
    """
    if len(specs) != 1:
        msg = f"{path} holds one array, the model has {len(specs)} inputs: {', '.join(spec.name for spec in specs)}"
        raise DataError(msg, hint="give a .npz with one array per input")
    return _stack(path.name, {specs[0].name: cast("Array", _load(path))}, specs)


def open_npz(path: Path, specs: tuple[TensorSpec, ...]) -> Arrays:
    """Read a .npz file: one array per graph input by name, or a single array for a single input.

    Raises:
        DataError: if it is no such file, or lacks an input.
    """
    with _load(path) as members:
        names = list(members.files)
        if len(specs) == 1 and len(names) == 1:
            wanted = {specs[0].name: names[0]}
        else:
            wanted = {spec.name: spec.name for spec in specs}
        for name in wanted.values():
            if name not in names:
                msg = f"{path} lacks an array `{name}`, it holds {', '.join(names) or 'nothing'}"
                raise DataError(msg, hint=f"the model's inputs are {', '.join(map(str, specs))}")
        try:
            arrays = {name: members[member] for name, member in wanted.items()}
        except Exception as exc:  # noqa: BLE001 zip, zlib and numpy raise their own on damaged members
            _refuse(path, exc)
    return _stack(path.name, arrays, specs)


def open_callable(reference: str, specs: tuple[TensorSpec, ...], samples: int | None) -> Arrays:
    """Call 'pkg.module:name' and keep what it yields: arrays, or one dict of arrays by input name.

    The first `samples` samples are kept, all where it is None: a stream has no length to space samples over.

    Raises:
        DataError: if it raises, yields something else, or nothing.
    """
    function = import_object(reference, DataError)
    if not callable(function):
        msg = f"`{reference}` is a {type(function).__name__}, expected a callable that returns an iterable of arrays"
        raise DataError(msg, hint="write a function that yields one array, or one dict by input name, per sample")
    parts: dict[str, list[Array]] = {spec.name: [] for spec in specs}
    for item in _items(reference, function, samples):
        for name, array in _by_input(item, reference, specs).items():
            parts[name].append(array)
    if not parts[specs[0].name]:
        msg = f"`{reference}` yielded nothing"
        raise DataError(msg, hint="it must yield at least one sample")
    arrays = {name: np.concatenate(chunks)[:samples] for name, chunks in parts.items()}
    return _stack(reference, arrays, specs)


def _items(reference: str, function: Callable[[], object], samples: int | None) -> list[object]:
    try:
        # Every item holds one sample or more, so `samples` items are enough.
        return list(islice(cast("Iterable[object]", function()), samples))
    except Exception as exc:  # the user's own code
        msg = f"`{reference}` failed: {describe(exc)}"
        raise DataError(msg, hint="call it from Python to see the whole error") from exc


def _by_input(item: object, reference: str, specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    where = f"what `{reference}` yields"
    if isinstance(item, Mapping):
        missing = [spec.name for spec in specs if spec.name not in item]
        if missing:
            msg = f"{where} lacks input `{missing[0]}`, it has {', '.join(map(str, item)) or 'nothing'}"
            raise DataError(msg, hint=f"the model's inputs are {', '.join(map(str, specs))}")
        return {spec.name: as_samples(np.asarray(item[spec.name]), spec, where) for spec in specs}
    if len(specs) == 1 and hasattr(item, "__array__"):
        return {specs[0].name: as_samples(np.asarray(item), specs[0], where)}
    want = "an array or a dict" if len(specs) == 1 else f"a dict of {', '.join(spec.name for spec in specs)}"
    msg = f"{where} is a {type(item).__name__}, expected {want}"
    raise DataError(msg, hint="yield inputs only, no labels")


def _stack(origin: str, arrays: dict[str, Array], specs: tuple[TensorSpec, ...]) -> Arrays:
    stacks = {spec.name: as_samples(arrays[spec.name], spec, f"{origin}") for spec in specs}
    lengths = {name: len(stack) for name, stack in stacks.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in lengths.items())
        msg = f"{origin} holds different numbers of samples: {counts}"
        raise DataError(msg, hint="axis 0 of every array counts the same samples")
    count = next(iter(lengths.values()))
    if count == 0:
        msg = f"{origin} holds no samples"
        raise DataError(msg, hint="axis 0 counts the samples")
    return Arrays(stacks, specs, tuple(f"{origin}[{index}]" for index in range(count)))


def _load(path: Path) -> np.lib.npyio.NpzFile:
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
    except Exception as exc:  # noqa: BLE001 OSError, ValueError, EOFError, zipfile's own
        _refuse(path, exc)
    return cast("np.lib.npyio.NpzFile", loaded)


def _refuse(path: Path, exc: BaseException) -> NoReturn:
    reason, hint = describe(exc), "write it with numpy.save or numpy.savez"
    if "pickle" in str(exc) or "Python objects" in str(exc):
        reason = "it is no numpy file, or holds Python objects"
        hint += "; objects are not read, since reading one can run code"
    msg = f"cannot read {path}: {reason}"
    raise DataError(msg, hint=hint) from exc
