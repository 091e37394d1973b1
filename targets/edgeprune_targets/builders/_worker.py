"""The child that runs TensorRT-RTX: a crash of the library ends this process and not the compile.

Reads one JSON object from stdin, writes the plan to the path named there and one JSON object to stdout.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

_NO_DEVICE = "CUDA driver version is insufficient"  # said on every machine without a GPU; building needs none
_POSITIONS = (re.compile(r" ?In \w+ at /_src/\S+"), re.compile(r"\[\w+\.\w+:\d+: \w+\] ?"))


def main() -> int:
    """Build what stdin asks for; 0 whether it was built or not, since either is an answer."""
    request = json.load(sys.stdin)
    sys.stdout.write(json.dumps(_build(request)) + "\n")
    return 0


def _build(request: dict[str, str]) -> dict[str, Any]:
    import tensorrt_rtx as trt

    start = time.monotonic()
    logger, errors = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    facts: dict[str, Any] = {"version": trt.__version__}
    if not parser.parse_from_file(request["onnx"]):
        return facts | {"error": _parse_errors(parser)}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, request["sm"].upper()), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return facts | {"error": "; ".join(dict.fromkeys(errors)) or "TensorRT-RTX gave no plan and no reason"}
    Path(request["plan"]).write_bytes(memoryview(plan))
    return facts | {
        "error": None,
        "seconds": round(time.monotonic() - start, 3),
        "inputs": [_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(i)) for i in range(network.num_outputs)],
    }


def _logger(trt: Any) -> tuple[Any, list[str]]:
    errors: list[str] = []

    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR and _NO_DEVICE not in message:
                errors.append(_readable(message))

    return Collector(), errors


def _readable(message: str) -> str:
    """Cut the vendor's own source position off; what is left says what and where in the graph."""
    text = " ".join(message.split())
    for noise in _POSITIONS:
        text = noise.sub("", text)
    return text.removeprefix("IBuilder::buildSerializedNetwork: ").strip(" (")[:500]


def _parse_errors(parser: Any) -> str:
    texts = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        where = f"{error.node_operator()} {error.node_name()!r}: " if error.node_operator() else ""
        texts.append(where + _readable(error.desc()))
    return "; ".join(dict.fromkeys(texts)) or "TensorRT-RTX did not parse the model and gave no reason"


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype.name.lower(), "shape": list(tensor.shape)}


if __name__ == "__main__":
    sys.exit(main())
