"""Running a graph in ONNX Runtime: the one place where a session is made."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgeprune.core.errors import DataError, ModelError
from edgeprune_calibration._specs import Array, TensorSpec

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

Graph: TypeAlias = "ir.Model | onnx.ModelProto | Path | str | bytes"
# A provider by name, or with its options.
Provider: TypeAlias = "str | tuple[str, dict[str, str]]"

# Protobuf ends at 2 GiB; far below it, weights in a file spare two copies of them in memory.
_INLINE_BYTES = 256 * 1024 * 1024
_CPU = ("CPUExecutionProvider",)


class Runner:
    """A model loaded in ONNX Runtime.

    Args:
        model: graph in memory, serialised, or a file (external data beside it).
        threads: within one operator; 0 leaves it to the runtime.
        optimise: let the runtime rewrite the graph; off, every node is run as it stands.
        providers: execution providers of ONNX Runtime, in order of preference.

    Raises:
        ModelError: if the runtime does not accept the model.
    """

    def __init__(
        self, model: Graph, *, threads: int = 0, optimise: bool = True, providers: Sequence[Provider] = _CPU
    ) -> None:
        self._session = _open(model, _session_options(threads, optimise=optimise), list(providers))
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once and return the named graph outputs, all where `outputs` is None.

        A feed that the graph has no input for is left out: exporters drop inputs that nothing reads.

        Raises:
            DataError: if an input is not fed, or fed what does not fit.
            ModelError: if there is no such output, or the runtime fails.
        """
        names = [spec.name for spec in self.outputs] if outputs is None else list(outputs)
        self._check(feeds, names)
        try:
            values = self._session.run(names, {spec.name: feeds[spec.name] for spec in self.inputs})
        except Exception as exc:  # onnxruntime's own classes, by no public base
            msg = f"ONNX Runtime fails to run the model: {_one_line(exc)}"
            raise ModelError(msg, hint="check the input shapes, and the model itself in ONNX Runtime") from exc
        return dict(zip(names, values, strict=True))

    def bound(self, feeds: Mapping[str, Array], device: str = "cpu") -> Callable[[object], None]:
        """Put inputs and outputs on a device ('cpu', 'cuda') and return what runs the model on them, for a clock.

        What the result is given is ignored. It returns when the run is over, and copies nothing to or from the device.

        Raises:
            DataError: as `run`.
        """
        self._check(feeds, [])
        binding = self._session.io_binding()
        for spec in self.inputs:
            binding.bind_ortvalue_input(spec.name, _on_device(feeds[spec.name], device))
        for spec in self.outputs:
            binding.bind_output(spec.name, device)

        def run(_: object) -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run

    @property
    def provider(self) -> str:
        """The execution provider that comes first; the runtime falls back to the processor where one cannot start."""
        return str(self._session.get_providers()[0])

    def _check(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> None:
        for spec in self.inputs:
            if spec.name not in feeds:
                msg = f"input `{spec.name}` is not fed, the data has {', '.join(feeds) or 'nothing'}"
                raise DataError(msg, hint="name the arrays as the model names its inputs")
            found = feeds[spec.name]
            fits = len(found.shape) == len(spec.shape) and all(
                want in (None, got) for want, got in zip(spec.shape, found.shape, strict=True)
            )
            if not fits or found.dtype != np.dtype(spec.dtype):
                got = TensorSpec(spec.name, found.shape, found.dtype.name)
                msg = f"input is fed {got}, expected {spec}"
                raise DataError(msg, hint="run it at the batch size and shapes that the model was exported for")
        known = {spec.name for spec in self.outputs}
        for name in outputs:
            if name not in known:
                msg = f"the model has no output `{name}`, it has {', '.join(sorted(known))}"
                raise ModelError(msg, hint="ask for one of them")


def onnxruntime_version() -> str:
    """Version of the ONNX Runtime that is installed, whichever package brought it."""
    import onnxruntime as ort

    return str(ort.__version__)


def available_providers() -> tuple[str, ...]:
    """Execution providers that this ONNX Runtime was built with; one may still lack its libraries or its device."""
    import onnxruntime as ort

    return tuple(ort.get_available_providers())


def _on_device(array: Array, device: str) -> Any:
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)


def _session_options(threads: int, *, optimise: bool) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Sessions live side by side here; one that is done must not spin on the cores of the one that is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _open(model: Graph, options: Any, providers: list[Provider]) -> Any:
    import onnxruntime as ort

    if tuple(providers) != _CPU and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA that came as Python packages is found only so

    label = f"{model}" if isinstance(model, (str, Path)) else "the model"
    try:
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
            return ort.InferenceSession(_loadable(model, Path(folder)), options, providers=providers)
    except Exception as exc:  # onnxruntime's own classes, by no public base
        msg = f"ONNX Runtime cannot load {label}: {_one_line(exc)}"
        raise ModelError(msg, hint="check the file with onnx.checker, or export it again") from exc


def _loadable(model: Graph, folder: Path) -> str | bytes:
    """Turn `model` into what a session opens; what is too large for memory twice goes to `folder`."""
    if isinstance(model, bytes):
        return model
    if isinstance(model, (str, Path)):
        return str(model)
    import onnx
    import onnx_ir as ir

    if isinstance(model, onnx.ModelProto):
        if model.ByteSize() < _INLINE_BYTES:
            return bytes(model.SerializeToString())
        model = ir.from_proto(model)
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if weights < _INLINE_BYTES:
        return bytes(ir.to_proto(model).SerializeToString())
    path = folder / "model.onnx"
    ir.save(model, path, external_data="weights.bin")
    return str(path)


def _spec(value: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(value.name, shape, _dtype(value.type))


def _dtype(ort_type: str) -> str:
    inner = ort_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64", "string": "object"}.get(inner, inner)


def _one_line(exc: BaseException) -> str:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : ", "", str(exc)).split("\n", 1)[0].strip()
    return text.rstrip(".") or type(exc).__name__
