"""What builds and runs leave for the next ones, in the user's cache folder; all of it may be deleted at any time."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Of edgeprune: `$XDG_CACHE_HOME/edgeprune` on Linux. Not made here."""
    return platformdirs.user_cache_path("edgeprune", appauthor=False)


def timing_cache(builder: str, version: str, capability: str, driver: str) -> Path:
    """Timings of kernels, which hold for one library on one kind of device under one driver."""
    return cache_folder() / "timing" / f"{builder}-{version}-{_sm(capability)}-cuda{driver}.cache"


def runtime_cache(engine_sha256: str, capability: str, driver: str) -> Path:
    """Kernels that TensorRT-RTX compiled for one engine on one kind of device under one driver."""
    return cache_folder() / "kernels" / f"{engine_sha256[:32]}-{_sm(capability)}-cuda{driver}.cache"


def _sm(capability: str) -> str:
    return "sm" + capability.replace(".", "")
