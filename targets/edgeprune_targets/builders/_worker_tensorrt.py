"""One build in TensorRT or TensorRT-RTX, from 8.5 on: the versions differ in names, so names are asked for.

Runs in the child only. Raw numbers of enums are never used: they moved between 10 and 11.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeprune.core.whole import write_whole
from edgeprune_targets.builders.cache import timing_cache

OLDEST = (8, 5)
_NO_DEVICE = "CUDA driver version is insufficient"  # TensorRT-RTX says so without a GPU, and builds all the same
_POSITIONS = (re.compile(r" ?In \w+ at /_src/\S+"), re.compile(r"\[\w+\.\w+:\d+: \w+\] ?"))
_MIB = 1 << 20
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "FP4": "float4_e2m1fn",
}
# Weak typing: what the graph holds must be allowed by a flag, or it is computed in fp32.
_FLAG_OF = {"HALF": "FP16", "BF16": "BF16", "INT8": "INT8", "FP8": "FP8", "INT4": "INT4"}


def serve(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Read the graph, say that it is read, and build it for each job; ends at the first failure."""
    trt = importlib.import_module(request["module"])
    facts = {"version": trt.__version__}
    if wrong := _not_with(trt, request):
        yield facts | {"error": wrong}
        return
    logger, errors = _logger(trt)
    builder = _made(trt.Builder, logger)
    if builder is None:
        yield facts | {"error": _said(errors, f"{request['words']} cannot start here")}
        return
    network = _network(trt, builder, request["typing"])
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(request["onnx"]):
        yield facts | {"error": _parse_errors(parser, request["words"])}
        return
    yield {"ready": True}
    facts["typing"] = _typing(trt, request["typing"])
    facts["inputs"] = [_tensor(network.get_input(i)) for i in range(network.num_inputs)]
    facts["outputs"] = [_tensor(network.get_output(i)) for i in range(network.num_outputs)]
    for job in request["jobs"]:
        start = time.monotonic()
        built = _build(trt, builder, network, request, job)
        error = None if built else _said(errors, f"{request['words']} gave no plan and no reason")
        yield facts | {"error": error, "seconds": round(time.monotonic() - start, 3)}
        if not built:
            return


def _build(trt: Any, builder: Any, network: Any, request: dict[str, Any], job: dict[str, Any]) -> bool:
    """Write the engine of one job, the layers that it says it has, and the timings that it took."""
    config = _config(trt, builder, network, request)
    if job["sm"] is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, job["sm"].upper()), 0)
    timed = job["timed"]
    cache = timing_cache(request["builder"], trt.__version__, timed["capability"], timed["driver"]) if timed else None
    if cache is not None:
        _use_timings(config, cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return False
    Path(job["engine"]).write_bytes(memoryview(plan))
    if job["layers"]:
        _write_layers(trt, builder.logger, plan, Path(job["engine"] + ".layers"))
    if cache is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be kept costs time, not the engine
            write_whole(cache, bytes(memoryview(config.get_timing_cache().serialize())))
    return True


def _config(trt: Any, builder: Any, network: Any, request: dict[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if request["workspace_mib"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace_mib"] * _MIB)
    if request["level"] is not None and hasattr(config, "builder_optimization_level"):  # from 8.6 on
        config.builder_optimization_level = request["level"]
    if _typing(trt, request["typing"]) == "weak":
        _allow_types(trt, config, network)
    return config


def _write_layers(trt: Any, logger: Any, plan: Any, path: Path) -> None:
    """The engine's own list of its layers, which only a machine with its device can read."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is not None:
        text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        path.write_text(text, encoding="utf-8")


def _not_with(trt: Any, request: dict[str, Any]) -> str | None:
    version = tuple(int(part) for part in re.findall(r"\d+", trt.__version__)[:2])
    if request["module"] == "tensorrt" and version < OLDEST:
        return f"TensorRT {trt.__version__} is installed, expected 8.5 or later"
    if request["typing"] == "weak" and not hasattr(trt.BuilderFlag, "FP16"):
        return f"{request['words']} {trt.__version__} types strongly only, and the graph was lowered for weak typing"
    return None


def _typing(trt: Any, asked: str | None) -> str:
    """Strong where the runtime has it: from 9 on by a flag, from 11 on always."""
    if asked == "weak":
        return "weak"
    has_strong = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not hasattr(trt.BuilderFlag, "FP16")
    return "strong" if has_strong else "weak"


def _network(trt: Any, builder: Any, asked: str | None) -> Any:
    names = trt.NetworkDefinitionCreationFlag
    wanted = ["EXPLICIT_BATCH"] + (["STRONGLY_TYPED"] if _typing(trt, asked) == "strong" else [])
    flags = 0
    for name in wanted:
        if hasattr(names, name):
            flags |= 1 << int(getattr(names, name))
    return builder.create_network(flags) if flags else builder.create_network()


def _allow_types(trt: Any, config: Any, network: Any) -> None:
    held = {network.get_input(i).dtype.name for i in range(network.num_inputs)}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        held |= {layer.get_output(j).dtype.name for j in range(layer.num_outputs)}
    for dtype, flag in _FLAG_OF.items():
        if dtype in held and hasattr(trt.BuilderFlag, flag):
            config.set_flag(getattr(trt.BuilderFlag, flag))


def _use_timings(config: Any, path: Path) -> None:
    """Start from the timings of earlier builds; a file that the library does not take is as good as none."""
    try:
        known = path.read_bytes()
    except OSError:
        known = b""
    cache = _made(config.create_timing_cache, known) if known else None
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _made(make: Any, argument: Any) -> Any:
    """Take what a factory gives; pybind turns a null pointer into a TypeError."""
    try:
        return make(argument)
    except (TypeError, RuntimeError):
        return None


def _logger(trt: Any) -> tuple[Any, list[str]]:
    errors: list[str] = []

    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR and _NO_DEVICE not in message:
                errors.append(_readable(message))

    return Collector(), errors


def _said(errors: list[str], otherwise: str) -> str:
    return "; ".join(dict.fromkeys(errors)) or otherwise


def _readable(message: str) -> str:
    """Cut the vendor's own source position off; what is left says what and where in the graph."""
    text = " ".join(message.split())
    for noise in _POSITIONS:
        text = noise.sub("", text)
    return text.removeprefix("IBuilder::buildSerializedNetwork: ").strip(" (")[:500]


def _parse_errors(parser: Any, words: str) -> str:
    texts = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        # 8.x knows the place of the node only
        operator = error.node_operator() if hasattr(error, "node_operator") else ""
        where = f"{operator} {error.node_name()!r}: " if operator else ""
        texts.append(where + _readable(error.desc()))
    return "; ".join(dict.fromkeys(texts)) or f"{words} did not parse the model and gave no reason"


def _tensor(tensor: Any) -> dict[str, Any]:
    name = tensor.dtype.name
    return {"name": tensor.name, "dtype": _DTYPES.get(name, name.lower()), "shape": list(tensor.shape)}
