"""The manifest beside each engine: what it is, what it was made of and by what; only `seconds` differs."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeprune.core.errors import TargetError
from edgeprune_targets.builders.protocol import Typing

SCHEMA = 2
_HINT = "build the engine again with this version of edgeprune"


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output: `dtype` as numpy names it, -1 for a size that the engine leaves open."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numpy(self) -> np.dtype[Any]:
        """Its dtype for numpy; bfloat16 and fp8 are those of ml_dtypes."""
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, self.dtype, None) or self.dtype)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Facts of one engine.

    Attributes:
        schema: number of this layout.
        edgeprune: version that asked for the engine.
        builder: name of the builder.
        builder_version: of the vendor's library, in full.
        libraries: installed packages of the runtime, with their versions.
        compute_capability: as 'major.minor'; empty where the engine is not bound to one.
        lowered_for: name of the runtime that the graph was lowered for; empty where it was not.
        typing: whether the engine keeps the graph's types.
        options: what the builder was told beside the graph.
        onnx_sha256: of the graph and its external data.
        plan_sha256: of the plan.json that the graph was made by; empty where it is not known.
        engine_sha256: of the engine.
        bytes: size of the engine.
        kernels: distinct kernels, where that can be told.
        launches: kernels that one inference runs, where that can be told.
        attentions: in the graph, where they were counted.
        fused_attentions: fused attention kernels, where that can be told.
        inputs: in the graph's order.
        outputs: in the graph's order.
        seconds: of the build; all else is the same in a second build.
    """

    schema: int = SCHEMA
    edgeprune: str
    builder: str
    builder_version: str
    libraries: dict[str, str]
    compute_capability: str
    lowered_for: str
    typing: Typing
    options: dict[str, str | int]
    onnx_sha256: str
    plan_sha256: str
    engine_sha256: str
    bytes: int
    kernels: int | None
    launches: int | None
    attentions: int | None
    fused_attentions: int | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    seconds: float


def manifest_path(engine: Path) -> Path:
    """Where the manifest of an engine lies."""
    return engine.with_name(engine.name + ".json")


def to_bytes(manifest: Manifest) -> bytes:
    """As it is written."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read_manifest(path: Path) -> Manifest:
    """Read the manifest at `path`, or the one beside the engine at `path`.

    Raises:
        TargetError: if it is absent, no manifest, or of another schema.
    """
    place = path if path.suffix == ".json" else manifest_path(path)
    try:
        raw = msgspec.json.decode(place.read_bytes())
        schema = raw.get("schema") if isinstance(raw, dict) else None
        if schema != SCHEMA:
            msg = f"the engine manifest {place} has schema {schema}, expected {SCHEMA}"
            raise TargetError(msg, hint=_HINT)
        return msgspec.convert(raw, Manifest)
    except OSError as error:
        msg = f"cannot read the engine manifest {place}: {error.strerror or error}"
        raise TargetError(msg, hint="keep the .json file that was written beside the engine with it") from error
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        msg = f"the engine manifest {place} cannot be read: {error}"
        raise TargetError(msg, hint=_HINT) from error


def edgeprune_version() -> str:
    """Version of this package, as installed."""
    try:
        return importlib.metadata.version("edgeprune")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@cache
def libraries(prefixes: tuple[str, ...]) -> dict[str, str]:
    """Installed packages whose names start so, by name: a runtime is several of them, and versions can be mixed."""
    found = {}
    for package in _packages():
        name = re.sub(r"[-_.]+", "-", package.metadata["Name"] or "").lower()
        if name.startswith(prefixes):
            found[name] = package.version
    return dict(sorted(found.items()))


def _packages() -> Iterable[importlib.metadata.Distribution]:
    return importlib.metadata.distributions()
