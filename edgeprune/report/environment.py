"""Where a result was made: versions and machine, read without importing what is named."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from importlib import metadata

PACKAGES = (
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "tensorrt",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu13",
    "timm",
    "torch",
    "transformers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Versions and machine of one run. `packages`: version by name, of those that are installed."""

    edgeprune: str
    python: str
    system: str
    machine: str
    cpus: int
    packages: dict[str, str] = field(default_factory=dict)


def describe_environment() -> Environment:
    """Describe this interpreter and this machine; no host name, no user, no path."""
    return Environment(
        edgeprune=_version("edgeprune") or "unknown",
        python=platform.python_version(),
        system=platform.system(),
        machine=platform.machine(),
        cpus=os.cpu_count() or 0,
        packages={name: version for name in PACKAGES if (version := _version(name))},
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
