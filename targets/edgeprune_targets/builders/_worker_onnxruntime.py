"""One build in ONNX Runtime: the graph as an execution provider rewrote it, saved. Runs in the child only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DTYPES = {"float": "float32", "double": "float64"}


def serve(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Optimise the graph for each job; ends at the first failure."""
    import onnxruntime as ort

    facts = {"version": ort.__version__, "typing": "strong"}
    yield {"ready": True}
    for job in request["jobs"]:
        start = time.monotonic()
        try:
            session = _session(ort, request, job)
        except Exception as error:  # noqa: BLE001 - onnxruntime's own classes, by no public base
            yield facts | {"error": _one_line(error)}
            return
        if (wrong := _not_served(session, request)) or not Path(job["engine"]).exists():
            yield facts | {"error": wrong or "ONNX Runtime wrote no model and gave no reason"}
            return
        yield facts | {
            "error": None,
            "seconds": round(time.monotonic() - start, 3),
            "options": {"provider": request["provider"], "level": request["level"]},
            "inputs": [_tensor(value) for value in session.get_inputs()],
            "outputs": [_tensor(value) for value in session.get_outputs()],
        }


def _session(ort: Any, request: dict[str, Any], job: dict[str, Any]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # nothing is run; the pool would only be made and ended
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{request['level'].upper()}")
    if request["provider"] == "TensorrtExecutionProvider":  # its engine goes into a node of the saved graph
        options.add_session_config_entry("ep.context_enable", "1")
        options.add_session_config_entry("ep.context_embed_mode", "1")
        options.add_session_config_entry("ep.context_file_path", job["engine"])
    else:
        options.optimized_model_filepath = job["engine"]
    providers = [(request["provider"], request["provider_options"])]
    if request["provider"] == "TensorrtExecutionProvider":
        providers.append(("CUDAExecutionProvider", {}))
    return ort.InferenceSession(request["onnx"], options, providers=providers)


def _not_served(session: Any, request: dict[str, Any]) -> str | None:
    """ONNX Runtime goes on with the CPU where a provider cannot be loaded, and only its log says so."""
    if request["provider"] in session.get_providers():
        return None
    return (
        f"ONNX Runtime could not load {request['provider']} and took {', '.join(session.get_providers())}: "
        "check that CUDA, cuDNN and TensorRT of the versions that onnxruntime-gpu names are installed"
    )


def _one_line(error: BaseException) -> str:
    text = str(error).strip().split("\n", 1)[0]
    return f"ONNX Runtime: {text.rpartition('] : ')[2][:500].rstrip('.') or type(error).__name__}"


def _tensor(value: Any) -> dict[str, Any]:
    inner = value.type.removeprefix("tensor(").removesuffix(")")
    shape = [size if isinstance(size, int) else -1 for size in value.shape]
    return {"name": value.name, "dtype": _DTYPES.get(inner, inner), "shape": shape}
