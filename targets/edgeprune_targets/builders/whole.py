"""Files that are there whole or not at all: a full disk or a crash leaves nothing half-written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A scratch folder on the disk of `folder`, which is made if absent; it vanishes with all that is left in it.

    Raises:
        OSError: if it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-", ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def deliver(files: Mapping[Path, Path]) -> None:
    """Move staged files to their places: `{place: staged}`, the one that gives the others their meaning last.

    All are on the disk before the first is moved. If one cannot be moved, none stays.

    Raises:
        OSError: if the disk is full or a place cannot be written.
    """
    for staged in files.values():
        _to_disk(staged)
    placed: list[Path] = []
    try:
        for place, staged in files.items():
            staged.replace(place)
            placed.append(place)
    except OSError:
        for place in placed:
            place.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write one file by way of another beside it, so that a reader finds the old one or the new one.

    Raises:
        OSError: if the disk is full or the place cannot be written.
    """
    with staging(path.parent) as scratch:
        part = scratch / path.name
        part.write_bytes(data)
        deliver({path: part})


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())
