"""Sums of a pass over the data, kept in the user's cache folder: finished ones spare the pass, begun ones go on."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import platformdirs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edgeprune_calibration.data import Dataset

_DONE = "done"
_EVERY_SECONDS = 60.0
# Older files go when there is more than this.
_MOST_BYTES = 4 << 30


@dataclass(slots=True)
class Store:
    """A folder of sums of one model, plan and data.

    Attributes:
        folder: where they lie; made when first written to.
    """

    folder: Path
    _saved: float = field(default_factory=time.monotonic)

    def load(self, key: str) -> tuple[dict[str, np.ndarray], int] | None:
        """Sums, and how many samples are in them; None where there are none that can be read."""
        try:
            with np.load(self.folder / f"{key}.npz", allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            return arrays, int(arrays.pop(_DONE))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None  # never written, or cut short: it is made again

    def keep(self, key: str, arrays: Callable[[], Mapping[str, np.ndarray]], done: int, *, last: bool = False) -> None:
        """Save the sums if that is due, or they are complete; a full disk only costs the next run its time."""
        if not last and time.monotonic() - self._saved < _EVERY_SECONDS:
            return
        self._saved = time.monotonic()
        try:
            self._write(key, {**arrays(), _DONE: np.array(done)})
        except OSError:
            return
        _forget_oldest(self.folder.parent)

    def _write(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=self.folder, suffix=".draft")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            Path(draft).replace(self.folder / f"{key}.npz")
        finally:
            Path(draft).unlink(missing_ok=True)


def store_for(model_sha256: str, plan: bytes, data: Dataset, batch: int) -> Store:
    """The place of the sums of one model, one plan of token cuts, and the very samples."""
    digest = hashlib.sha256(f"{model_sha256} {batch} ".encode() + plan)
    for names, feed in data.feeds(batch=batch):
        digest.update(repr(names).encode())
        for name in sorted(feed):
            digest.update(name.encode() + np.ascontiguousarray(feed[name]).tobytes())
    folder = platformdirs.user_cache_path("edgeprune", appauthor=False) / "moments"
    return Store(folder / digest.hexdigest()[:32])


def _forget_oldest(folder: Path) -> None:
    """Keep the cache small: the files that were written last."""
    used = 0
    for size, path in _newest_first(folder):
        used += size
        if used > _MOST_BYTES:
            path.unlink(missing_ok=True)


def _newest_first(folder: Path) -> Iterator[tuple[int, Path]]:
    found = [(path.stat(), path) for path in folder.glob("*/*.npz")]
    for stat, path in sorted(found, key=lambda item: -item[0].st_mtime):
        yield stat.st_size, path
