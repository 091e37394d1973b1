"""What a width cut needs beside its plan: the units that are kept, and the weights solved anew for them. One `.npz`.

    mlp.3/kept              int64 [K], ascending
    mlp.3/consumer.weight   [K*, out]; rows of the weight that contracts the units
    mlp.3/consumer.bias     [out]
    inner.3/beside0.weight  [K*, out] and beside0.bias: of another weight that contracts the units
    mlp.3/producer0.weight  [in, ...] and producer0.bias, where coordinates were rotated first
    mlp-sublayer.3/mean     [D], what stands for a whole sublayer
    mlp.3/cost              [3], error, error with nothing solved, and ridge of the solution; for the report alone

Statistics are sums of floats in an order that a machine chooses, so solved weights cannot be made again to the byte
from data. They are saved, the plan names their file by its sha256, and so the same model and plan give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgeprune.core.errors import PlanError

if TYPE_CHECKING:
    from pathlib import Path

FILE = "widths.npz"

Arrays: TypeAlias = Mapping[str, np.ndarray]


def arrays_to_bytes(arrays: Arrays) -> bytes:
    """The file's bytes; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})  # type: ignore[arg-type]
    return buffer.getvalue()


def digest(data: bytes) -> str:
    """The sha256 by which a plan names the file."""
    return hashlib.sha256(data).hexdigest()


def arrays_from_bytes(data: bytes) -> dict[str, np.ndarray]:
    """Read the file.

    Raises:
        PlanError: if it is no such file.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError) as error:
        msg = f"not a file of widths: {error}"
        raise PlanError(msg, hint="expected the widths.npz that was written beside plan.json") from error


def check_arrays(arrays: Arrays, sha256: str) -> Arrays:
    """The arrays, if they are those that a plan names.

    Raises:
        PlanError: if they are others.
    """
    found = digest(arrays_to_bytes(arrays))
    if found != sha256:
        msg = f"the arrays of widths have sha256 {found[:12]}, the plan names {sha256[:12]}"
        raise PlanError(msg, hint="give the arrays of the result that the plan is of")
    return arrays


def read_arrays(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """Read the file beside a plan.

    Raises:
        PlanError: if it is absent, or not the one that the plan names.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"the plan cuts widths, but their weights are not there: {path}: {error.strerror or error}"
        raise PlanError(msg, hint="keep widths.npz beside plan.json, where `edgeprune compile` wrote it") from error
    if digest(data) != sha256:
        msg = f"{path} has sha256 {digest(data)[:12]}, the plan names {sha256[:12]}"
        raise PlanError(msg, hint="keep plan.json and the widths.npz that was written with it together")
    return arrays_from_bytes(data)
