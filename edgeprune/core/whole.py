"""Files that are there whole or not at all: a full disk or a crash leaves nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeprune.core.errors import EdgepruneError, PlanError


def check_new(path: Path, *, force: bool) -> None:
    """Check that a file of the user's may be written, before any work is done for it.

    Raises:
        PlanError: if it exists and `force` is not set, it is a folder, or its folder does not exist.
    """
    if path.is_dir():
        msg = f"the output {path} is a folder, expected a file"
        raise PlanError(msg, hint="name a file with -o, such as report.html")
    if path.exists() and not force:
        msg = f"the output {path} exists"
        raise PlanError(msg, hint="give --force to overwrite it, or another name with -o")
    if not path.parent.is_dir():
        msg = f"no such folder: {path.parent}"
        raise PlanError(msg, hint="make it, or give another name with -o")


def write_outputs(files: Mapping[Path, bytes]) -> None:
    """Write files of the user's, which all appear or none; their folders have to be there.

    Raises:
        EdgepruneError: if the disk is full or a place cannot be written.
    """
    try:
        with contextlib.ExitStack() as stack:
            staged: dict[Path, Path] = {}
            for path, data in files.items():
                scratch = stack.enter_context(_scratch(path.parent))
                staged[path] = scratch / path.name
                staged[path].write_bytes(data)
            deliver(staged)
    except OSError as error:
        places = ", ".join(map(str, files))
        msg = f"cannot write {places}: {error.strerror or error}"
        raise EdgepruneError(msg, hint="free some space, or choose another place with -o") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write one file by way of another beside it, so that a reader finds the old one or the new one.

    Raises:
        OSError: if the disk is full or the place cannot be written.
    """
    with staging(path.parent) as scratch:
        part = scratch / path.name
        part.write_bytes(data)
        deliver({path: part})


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A scratch folder on the disk of `folder`, which is made if absent; it vanishes with all that is left in it.

    Raises:
        OSError: if it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _scratch(folder) as scratch:
        yield scratch


def deliver(files: Mapping[Path, Path]) -> None:
    """Move staged files to their places: `{place: staged}`, the one that gives the others their meaning last.

    All are on the disk before the first is moved. If one cannot be moved, none stays.

    Raises:
        IsADirectoryError: if a place is a folder; nothing is touched then.
        OSError: if the disk is full or a place cannot be written.
    """
    for place, staged in files.items():
        if place.is_dir():  # would be found out only after others had taken the place of what was there
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
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


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-", ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())
