"""The output folder: it appears whole or not at all."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.core.errors import EdgepruneError, PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def output_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """A folder to fill, which takes the place of `out` when the work is done and vanishes if it fails.

    Raises:
        PlanError: if `out` exists and `force` is not set.
        EdgepruneError: if the disk is full or the place cannot be written.
        OSError: what the work in between raised about other files.
    """
    check_free(out, force=force)
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            made = Path(scratch) / "new"
            made.mkdir()
            yield made
            _take_place(made, out, Path(scratch) / "old")
    except OSError as error:
        if not _is_about(error, out):
            raise
        msg = f"cannot write {out}: {error.strerror or error}"
        raise EdgepruneError(msg, hint="free some space, or choose another folder with -o") from error


def _is_about(error: OSError, out: Path) -> bool:
    """Whether writing failed, and not the reading of some other file while the folder was filled."""
    return error.filename is None or str(error.filename).startswith(str(out.parent))


def _take_place(made: Path, out: Path, aside: Path) -> None:
    """Move `made` to `out`; what was there goes aside, and comes back if that fails."""
    if not out.exists():
        made.rename(out)
        return
    out.rename(aside)
    try:
        made.rename(out)
    except BaseException:
        aside.rename(out)
        raise


def check_free(out: Path, *, force: bool) -> None:
    """Check that an output folder may be written, before any work is done for it.

    Raises:
        PlanError: if it exists and `force` is not set, or is no folder.
    """
    if out.is_file():
        msg = f"the output {out} is a file, expected a folder"
        raise PlanError(msg, hint="choose another name with -o")
    if out.exists() and not force:
        msg = f"the output folder {out} exists"
        raise PlanError(msg, hint="give --force to replace it, or another folder with -o")
