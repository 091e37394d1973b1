"""The sha256 of files, by which plans, manifests and bundles know them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1 << 22


def sha256_of(*files: Path) -> str:
    """Digest of the contents of some files, one after the other, read in pieces."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
