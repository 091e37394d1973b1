"""Stands in for trtexec: its banner, the flags each version knows, the engines it loads, the JSON it writes.

Environment: FAKE_VERSION (of the banner), FAKE_LOG (gets the arguments of each call), FAKE_FAIL (how to fail),
FAKE_MS (median of dense,model), FAKE_DRIFT (factor from call to call), FAKE_LAYERS (JSON: [name, [onnx nodes], ms]).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

NUMBER = os.environ.get("FAKE_VERSION", "100300")
FAIL = os.environ.get("FAKE_FAIL", "")

_SINCE_8_5 = """
 help onnx saveEngine loadEngine memPoolSize timingCacheFile profilingVerbosity warmUp duration iterations avgRuns
 percentile exportTimes exportProfile exportLayerInfo dumpProfile dumpLayerInfo sparsity verbose device noTF32
 useCudaGraph useSpinWait noDataTransfers separateProfileRun fp16 int8 best
""".split()
_SINCE_8_6 = ["skipInference", "builderOptimizationLevel", "versionCompatible", "hardwareCompatibilityLevel"]
_OLD_DEFAULTS = {"useCudaGraph", "useSpinWait", "noDataTransfers", "separateProfileRun", "stronglyTyped"}
_SAYS = {
    "memory": "Error[2]: [virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory",
    "disk": "Saving engine to file failed: No space left on device",
    "option": "Unknown option: --timingCacheFile",
    "operator": "ModelImporter.cpp:771: ERROR: In function importFallbackPluginImporter: "
    "No importer registered for op: LayerNormalization",
}
_LAYERS = [
    ["__myl_Tran_myl0_0", [], 0.05],
    ["__myl_Gemm_myl0_1", ["/blocks.0/attn/qkv/MatMul", "/blocks.0/attn/qkv/Add"], 0.4],
    ["_gemm_mha_v2_myl0_2", ["/blocks.0/attn/MatMul", "/blocks.0/attn/Softmax"], 0.3],
    ["__myl_Add_myl0_3", ["/blocks.0/Add_1", "/blocks.1/norm1/LayerNormalization"], 0.25],
]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def version() -> tuple[int, int]:
    """Major and minor, of the banner's digits."""
    digits = int(NUMBER)
    return (digits // 10000, digits // 100 % 100) if digits >= 100000 else (digits // 1000, digits // 100 % 10)


def known_flags() -> set[str]:
    """What this version accepts; from 11.2 on, as if the no-ops of 11.0 were gone."""
    flags = set(_SINCE_8_5)
    if version() < (10, 0):
        flags |= {"workspace", "heuristic", "buildOnly", "precisionConstraints", "layerPrecisions"}
    if version() >= (8, 6):
        flags |= set(_SINCE_8_6)
    if version() >= (10, 0):
        flags |= {"stronglyTyped", "bf16"}
    if version() >= (11, 0):
        flags -= {"fp16", "int8", "best", "bf16"}
        flags |= {"noCudaGraph", "noSpinWait", "includeDataTransfers"}
    if version() >= (11, 2):
        flags -= _OLD_DEFAULTS
    return flags


def fail(*lines: str, status: int = 1) -> None:
    for line in lines:
        say(f"[11/22/2026-10:00:00] [E] {line}")
    say(f"&&&& FAILED TensorRT.trtexec [TensorRT v{NUMBER}]")
    sys.exit(status)


def build(flags: dict[str, str]) -> None:
    onnx = Path(flags["onnx"]).read_bytes()
    engine = json.dumps(
        {
            "version": NUMBER,
            "onnx": hashlib.sha256(onnx).hexdigest(),
            "detailed": flags.get("profilingVerbosity") == "detailed",
            "typing": sorted({"fp16", "stronglyTyped"} & flags.keys()),
        }
    )
    place = Path(flags["saveEngine"])
    if FAIL:
        place.write_text(engine[: len(engine) // 2], encoding="utf-8")
    say("[11/22/2026-10:00:00] [W] [TRT] Tactic Device request: 3120MB Available: 2712MB. insufficient memory")
    if FAIL == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if FAIL in _SAYS:
        fail(_SAYS[FAIL])
    if FAIL == "silent":
        place.unlink()
        return
    place.write_text(engine, encoding="utf-8")
    if "timingCacheFile" in flags:
        Path(flags["timingCacheFile"]).write_text("cache", encoding="utf-8")


def load(path: Path) -> dict[str, object]:
    engine: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    if engine["version"] != NUMBER:
        fail(
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization "
            "(The engine plan file is not compatible with this version of TensorRT)"
        )
    if FAIL == "run":
        fail("Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
    return engine


def median_ms(name: str, flags: dict[str, str]) -> float:
    dense, model = map(float, os.environ.get("FAKE_MS", "2.0,1.25").split(","))
    log = Path(os.environ["FAKE_LOG"]).read_text(encoding="utf-8")
    calls = sum("--exportTimes" in line for line in log.splitlines()) - 1
    graph = version() >= (11, 0) or "useCudaGraph" in flags
    return (
        (dense if name == "dense" else model)
        * (1 if graph else 1.5)
        * float(os.environ.get("FAKE_DRIFT", "1")) ** calls
    )


def export_times(path: str, ms: float) -> None:
    rows = []
    for i, factor in enumerate((0.9, 1.0, 1.0, 1.0, 8.8)):
        names = "startEnqMs endEnqMs startH2dMs endH2dMs startComputeMs endComputeMs startD2hMs endD2hMs".split()
        row = dict.fromkeys(names, 0.1 * i) | {
            "h2dMs": 0,
            "computeMs": ms * factor,
            "d2hMs": 0,
            "latencyMs": ms * factor,
        }
        rows.append("{ " + ", ".join(f'"{key}" : {value:g}' for key, value in row.items()) + " }\n")
    Path(path).write_text("[\n  " + ", ".join(rows) + "]\n", encoding="utf-8")


def layers() -> list[list]:
    given = os.environ.get("FAKE_LAYERS")
    return json.loads(Path(given).read_text(encoding="utf-8")) if given else _LAYERS


def export_profile(path: str) -> None:
    whole = sum(ms for _, _, ms in layers())
    lines = ['[\n  { "count" : 50 }\n']
    for name, _, ms in layers():
        lines.append(
            f', {{ "name" : "{name}", "timeMs" : {50 * ms:g}, "averageMs" : {ms:g}, "medianMs" : {ms:g}, '
            f'"percentage" : {100 * ms / whole:g} }}\n'
        )
    Path(path).write_text("".join([*lines, "]\n"]), encoding="utf-8")


def export_layers(path: str, *, detailed: bool) -> None:
    made: list[object] = []
    for name, nodes, _ in layers():
        metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
        tensor = {"Name": "x", "Dimensions": [1, 197, 192]}
        tensor |= (
            {"Format/Datatype": "Half"} if version() < (11, 0) else {"Format": "Row major linear", "Datatype": "Half"}
        )
        layer = {
            "Name": name,
            "LayerType": "kgen",
            "Inputs": [tensor],
            "Outputs": [tensor],
            "TacticName": name,
            "StreamId": 0,
        }
        made.append(layer | ({"Metadata": metadata} if version() >= (8, 6) else {}) if detailed else name)
    io = {"Bindings": ["x", "y"]} if version() < (11, 0) else {"I/O Tensors": [{"Name": "x", "IOMode": "Input"}]}
    text = json.dumps({"Layers": made} | io, indent=1)
    # Versions differ in whether the separator is escaped; both are met.
    Path(path).write_text(text.replace("\\u001f", "\x1f") if version() < (10, 0) else text, encoding="utf-8")


def run(flags: dict[str, str]) -> None:
    engine = load(Path(flags["loadEngine"]))
    if "exportTimes" in flags:
        time.sleep(0.1)
        export_times(flags["exportTimes"], median_ms(Path(flags["loadEngine"]).stem, flags))
    if "exportProfile" in flags:
        export_profile(flags["exportProfile"])
    if "exportLayerInfo" in flags:
        export_layers(flags["exportLayerInfo"], detailed=bool(engine["detailed"]))


def main() -> None:
    arguments = sys.argv[1:]
    build_number = " [b18]" if version() >= (10, 0) else ""
    say(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{NUMBER}]{build_number} # trtexec {' '.join(arguments)}")
    with Path(os.environ["FAKE_LOG"]).open("a", encoding="utf-8") as log:
        log.write(" ".join(arguments) + "\n")
    flags = {}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        if name not in known_flags():
            fail(f"Unknown option: {argument}", "=== Model Options ===")
        flags[name] = value
    if "help" in flags:
        say("=== Model Options ===")
        return
    if "onnx" not in flags:
        run(flags)
    else:
        build(flags)
        if not {"skipInference", "buildOnly"} & flags.keys():
            time.sleep(60)  # the real one would now run for seconds
    say(f"&&&& PASSED TensorRT.trtexec [TensorRT v{NUMBER}]")


main()
