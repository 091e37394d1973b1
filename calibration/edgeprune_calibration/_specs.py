"""What a graph input or output looks like, and how an array is made to fit it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeprune.core.errors import DataError
from edgeprune.core.graph import static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and numpy dtype name of a graph input or output.

    Attributes:
        name: of the value in the graph.
        shape: sizes; None where the model leaves one open. Axis 0 is the batch axis.
        dtype: as numpy names it, such as 'float32'.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"

    @classmethod
    def of(cls, value: ir.Value) -> TensorSpec:
        """That of an input or output of a graph with static shapes."""
        kind = value.dtype.numpy().name if value.dtype is not None else "float32"
        return cls(str(value.name), static_shape(value) or (), kind)

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """Shape of one sample: without the batch axis."""
        return self.shape[1:]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {show_shape(self.shape)}"


def show_shape(shape: tuple[int | None, ...]) -> str:
    """Shape as a person writes it: '1x3x224x224', '?' for an open size, 'scalar' for rank 0."""
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def as_samples(array: Array, spec: TensorSpec, where: str) -> Array:
    """View `array` as a stack of samples [n, *sample] of `spec`.

    An array of the input's rank holds samples along its axis 0; one rank more is a stack of batches, which is
    flattened to a stack of samples; one rank less is one sample.

    Args:
        array: what the user gave.
        spec: of the graph input.
        where: what to call the array in an error.

    Raises:
        DataError: if rank, sizes or kind of number do not fit.
    """
    rank = len(spec.shape)
    if array.ndim == rank + 1:
        array = array.reshape(-1, *array.shape[2:])
    elif array.ndim == rank - 1:
        array = array[None]
    fits = array.ndim == rank and all(
        want in (None, got) for want, got in zip(spec.sample_shape, array.shape[1:], strict=True)
    )
    if not fits:
        want = show_shape((None, *spec.sample_shape)).replace("?", "N", 1)
        msg = f"{where} has shape {show_shape(array.shape)}, expected {want} for input `{spec.name}`"
        raise DataError(msg, hint="axis 0 counts the samples; the other axes are those of the model's input")
    _check_kind(array.dtype, spec, where)
    return array


def _check_kind(dtype: np.dtype[np.generic], spec: TensorSpec, where: str) -> None:
    want = np.dtype(spec.dtype)
    groups = {"f": "f", "i": "iu", "u": "iu", "b": "b"}
    if dtype.kind in groups.get(want.kind, want.kind):
        return
    msg = f"{where} holds {dtype.name}, expected {spec.dtype} for input `{spec.name}`"
    hint = (
        "store the values as the model sees them: scaled, normalised, in floating point"
        if want.kind == "f"
        else f"store the values as {spec.dtype}"
    )
    raise DataError(msg, hint=hint)


def as_input(sample: Array, spec: TensorSpec, where: str) -> Array:
    """Copy one sample in the dtype of `spec`, checked to hold nothing that the dtype cannot.

    Raises:
        DataError: if the sample holds NaN or Inf, or an integer that does not fit.
    """
    if sample.dtype.kind == "f" and not np.isfinite(sample).all():
        kind = "NaN" if np.isnan(sample).any() else "Inf"
        msg = f"{where} holds {kind}, expected finite numbers for input `{spec.name}`"
        raise DataError(msg, hint="remove the sample, or mend what made it")
    with np.errstate(over="ignore"):
        fitted: Array = np.ascontiguousarray(sample, dtype=np.dtype(spec.dtype))
    lossy = not np.isfinite(fitted).all() if sample.dtype.kind == "f" else not np.array_equal(fitted, sample)
    if lossy:
        msg = f"{where} holds numbers outside {spec.dtype}, the type of input `{spec.name}`"
        raise DataError(msg, hint=f"keep the values inside the range of {spec.dtype}")
    return fitted
