"""Read a model file as data: nothing in it is executed, nothing outside its folder is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.digest import sha256_of
from edgeprune.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST_OPSET, NEWEST_OPSET = 13, 25


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A model file that was read.

    Attributes:
        path: of the ONNX file.
        model: the graph as it stands in the file; large weights are mapped, not copied.
        sha256: of the file and, after it, its external data files in the order of their names.
    """

    path: Path
    model: ir.Model
    sha256: str


def read_model(path: Path) -> Source:
    """Read an ONNX file and check what must hold before any pass runs.

    Raises:
        ModelError: if the file is missing, is not ONNX, is truncated, names external data that is missing or lies
            outside its folder, has an opset that cannot be compiled, no node, or weights that are NaN.
    """
    if not path.is_file():
        msg = f"no such model file: {path}"
        raise ModelError(msg, hint="give an ONNX file, or a PyTorch source such as timm:vit_base_patch16_224")
    try:
        model = ir.load(path)
    except Exception as error:
        msg = f"not a readable ONNX file: {path} ({_first_line(error)})"
        raise ModelError(msg, hint="the file is truncated, or of another format; export it again") from error
    if len(model.graph) == 0:
        msg = f"the model has no nodes: {path}"
        raise ModelError(msg, hint="the file is truncated, or of another format; export it again")
    _check_opset(model)
    outside = sorted(set(_external_files(model, path)))
    _check_weights(model)
    return Source(path, model, sha256_of(path, *outside))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _check_opset(model: ir.Model) -> None:
    opset = model.opset_imports.get("")
    if opset is None or not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        msg = f"the model has opset {opset}, expected {OLDEST_OPSET} to {NEWEST_OPSET}"
        raise ModelError(msg, hint="export it again with opset 17 or 20")


def _external_files(model: ir.Model, path: Path) -> Iterator[Path]:
    """The files that hold weights.

    Raises:
        ModelError: if one is missing, too short, or outside the model's folder.
    """
    folder = path.resolve().parent
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location = Path(str(tensor.location))
        target = (folder / location).resolve()
        if location.is_absolute() or folder not in target.parents:
            msg = f"the weight `{value.name}` lies outside the model's folder: {location}"
            raise ModelError(msg, hint="a model file may only name data beside it; do not trust this one")
        if not target.is_file():
            msg = f"the external data file is missing: {location}"
            raise ModelError(msg, hint="copy it beside the ONNX file")
        if target.stat().st_size < (tensor.offset or 0) + (tensor.length or 0):
            msg = f"the external data file is too short for the weight `{value.name}`: {location}"
            raise ModelError(msg, hint="it is truncated; copy or export it again")
        yield target


def _check_weights(model: ir.Model) -> None:
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}:
            continue
        if np.isnan(tensor.numpy()).any():
            msg = f"the weight `{value.name}` holds NaN"
            raise ModelError(msg, hint="export the model again from a sound checkpoint")


def digest_of(path: Path) -> str:
    """The sha256 by which plans know a model file: as `Source.sha256`."""
    data = path.with_name(f"{path.name}.data")
    return sha256_of(path, data) if data.is_file() else sha256_of(path)
