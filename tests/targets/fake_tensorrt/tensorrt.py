"""A stand-in for `tensorrt`, which needs a device: the names that a version has, and a log of the calls.

The version comes from FAKE_TRT: 8.5, 8.6, 10.3 or 11.1. Names that it has not are absent, as in the real bindings, so
that code which asks for a wrong one fails. Calls go to the file FAKE_TRT_LOG, one JSON object a line. An engine here is
JSON, and computes twice its input at addresses of this process's memory.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import sys
import time
from enum import IntEnum
from pathlib import Path

import numpy as np

_VERSION = tuple(int(part) for part in os.environ.get("FAKE_TRT", "10.3").split("."))
__version__ = {(8, 5): "8.5.2.2", (8, 6): "8.6.2.3", (10, 3): "10.3.0.26", (11, 1): "11.1.0.106"}.get(
    _VERSION, f"{_VERSION[0]}.{_VERSION[1]}.0"
)
_OLD, _WEAK = _VERSION < (9,), _VERSION < (11,)


def _protos():
    """The protocol buffers of onnx without onnx, which takes longer to import than all of this to run."""
    place = Path(importlib.util.find_spec("onnx").origin).with_name("onnx_ml_pb2.py")
    spec = importlib.util.spec_from_file_location("onnx_protos_alone", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _log(**what):
    if path := os.environ.get("FAKE_TRT_LOG"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")


def _enum(name, words):
    """Numbers that no code may rely on: they differ by version, as the real ones do."""
    return IntEnum(name, {word: number + _VERSION[0] for number, word in enumerate(words)})


NetworkDefinitionCreationFlag = _enum(
    "NetworkDefinitionCreationFlag", (["EXPLICIT_BATCH"] if _WEAK else []) + ([] if _OLD else ["STRONGLY_TYPED"])
)
BuilderFlag = _enum(
    "BuilderFlag", ["TF32", "DEBUG"] + (["FP16", "INT8"] if _WEAK else []) + (["BF16"] if _WEAK and not _OLD else [])
)
MemoryPoolType = _enum("MemoryPoolType", ["WORKSPACE", "TACTIC_DRAM"])
ProfilingVerbosity = _enum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "NONE", "DETAILED"])
LayerInformationFormat = _enum("LayerInformationFormat", ["ONELINE", "JSON"])
DataType = _enum("DataType", ["FLOAT", "HALF", "INT8", "INT32", "BOOL"] + ([] if _OLD else ["INT64", "BF16"]))
_FROM_ONNX = {1: "FLOAT", 10: "HALF", 3: "INT8", 6: "INT32", 7: "INT32" if _OLD else "INT64", 9: "BOOL"}


if os.environ.get("FAKE_TRT_RTX"):
    ComputeCapability = _enum("ComputeCapability", ["NONE", "CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120"])


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self):
        pass


class _Tensor:
    def __init__(self, name, elem_type, shape):
        self.name, self.dtype, self.shape = name, DataType[_FROM_ONNX[elem_type]], tuple(shape)


class _Layer:
    def __init__(self, name, elem_type):
        self.name, self.num_outputs, self._type = name, 1, elem_type

    def get_output(self, _index):
        return _Tensor(self.name, self._type, ())


def _trouble(capability):
    """End or stop as a library with a fault does, at the build for one capability."""
    if os.environ.get("FAKE_TRT_CRASHES") == capability:
        sys.stderr.write("free(): invalid pointer\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    if os.environ.get("FAKE_TRT_HANGS") == capability:
        time.sleep(60)


class _Network:
    def __init__(self):
        self.inputs, self.outputs, self.layers = [], [], []

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))
    num_layers = property(lambda self: len(self.layers))

    def get_input(self, index):
        return self.inputs[index]

    def get_output(self, index):
        return self.outputs[index]

    def get_layer(self, index):
        return self.layers[index]


def _memory(data):
    """What the bindings give: it has a buffer, and no bytes()."""
    return np.frombuffer(data, np.uint8)


class _TimingCache:
    def __init__(self, data):
        self.data = data

    def serialize(self):
        return _memory(self.data)


class _Config:
    def __init__(self):
        self._cache, self._flags, self._capability = None, [], ""
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        if _VERSION >= (8, 6):
            self.builder_optimization_level = 3

    def set_compute_capability(self, capability, index):
        assert (self.num_compute_capabilities, index) == (1, 0)
        self._capability = ComputeCapability(capability).name

    def set_flag(self, flag):
        self._flags.append(BuilderFlag(flag).name)

    def set_memory_pool_limit(self, pool, size):
        _log(call="set_memory_pool_limit", pool=MemoryPoolType(pool).name, size=size)

    def create_timing_cache(self, data):
        if data and not bytes(data).startswith(b"TIMED"):
            raise TypeError("create_timing_cache(): factory function returned nullptr")
        return _TimingCache(bytes(data))

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self._cache = cache
        return __version__.encode() in cache.data or not cache.data

    def get_timing_cache(self):
        return self._cache


class Builder:
    def __init__(self, logger):
        if os.environ.get("FAKE_TRT_NO_DEVICE"):
            logger.log(ILogger.ERROR, "CUDA initialization failure with error: 100")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.logger = logger

    def create_network(self, flags=0):
        names = [flag.name for flag in NetworkDefinitionCreationFlag if flags & (1 << int(flag))]
        _log(call="create_network", flags=names)
        return _Network()

    def create_builder_config(self):
        return _Config()

    def build_serialized_network(self, network, config):
        cache = config.get_timing_cache()
        _log(
            call="build",
            capability=config._capability,
            process=os.getpid(),
            flags=config._flags,
            verbosity=ProfilingVerbosity(config.profiling_verbosity).name,
            level=getattr(config, "builder_optimization_level", None),
            cache=cache.data.decode() if cache else None,
        )
        _trouble(config._capability)
        if os.environ.get("FAKE_TRT_FAIL"):
            self.logger.log(ILogger.ERROR, os.environ["FAKE_TRT_FAIL"])
            return None
        if cache is not None:
            cache.data = b"TIMED by " + __version__.encode()
        names = {"inputs": network.inputs, "outputs": network.outputs}
        if os.environ.get("FAKE_TRT_REFUSES") == config._capability:
            self.logger.log(ILogger.ERROR, "not for this one")
            return None
        plan = {key: [[each.name, each.dtype.name, each.shape] for each in tensors] for key, tensors in names.items()}
        return _memory(json.dumps({"version": __version__, **plan}).encode())


class _ParserError:
    def __init__(self, words, node=None):
        self._words, self._node = words, node
        if not _OLD:  # 8.x says the number of the node only
            self.node_operator, self.node_name = (lambda: "NonZero"), (lambda: node)

    def desc(self):
        return self._words

    def node(self):
        return 7


class OnnxParser:
    def __init__(self, network, _logger):
        self._network, self._errors = network, []

    def parse_from_file(self, path):
        graph = _protos().ModelProto.FromString(Path(path).read_bytes()).graph
        bad = [node for node in graph.node if node.op_type == "NonZero"]
        self._errors = [_ParserError("no importer registered for op: NonZero", node.name) for node in bad]
        fill = self._network
        for values, tensors in ((graph.input, fill.inputs), (graph.output, fill.outputs)):
            for value in values:
                kind = value.type.tensor_type
                tensors.append(_Tensor(value.name, kind.elem_type, [dim.dim_value for dim in kind.shape.dim]))
        fill.layers += [_Layer(each.name, each.data_type) for each in graph.initializer]
        return not bad

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index):
        return self._errors[index]


class _Inspector:
    def __init__(self, plan):
        self._plan = plan

    def get_engine_information(self, form):
        assert LayerInformationFormat(form).name == "JSON"
        names = [each[0] for each in self._plan["inputs"] + self._plan["outputs"]]
        layers = [
            {
                "Name": "__myl_FcMul",
                "LayerType": "gemm",
                "TacticName": "sm80_xmma_gemm_f16",
                "Metadata": "[ONNX Layer: a]",
            },
            {"Name": "_gemm_mha_v2_0x12", "LayerType": "kgen", "TacticName": "_gemm_mha_v2_0x12", "Metadata": ""},
        ]
        bindings = {"Bindings": names} if _WEAK else {"I/O Tensors": [{"Name": name} for name in names]}
        return json.dumps({"Layers": layers, **bindings})


class _RuntimeCache:
    def __init__(self):
        self.data = b""

    def deserialize(self, data):
        _log(call="runtime_cache", data=bytes(data).decode())
        self.data = bytes(data)
        return True

    def serialize(self):
        return _memory(b"COMPILED")


class _RuntimeConfig:
    def create_runtime_cache(self):
        return _RuntimeCache()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class _Context:
    def __init__(self, plan):
        self._plan, self._at = plan, {}

    def set_tensor_address(self, name, address):
        known = [each[0] for each in self._plan["inputs"] + self._plan["outputs"]]
        self._at[name] = address
        return name in known

    def execute_async_v3(self, stream):
        assert stream
        if os.environ.get("FAKE_TRT_FAIL"):
            return False
        (source, _, shape), (target, _, _) = self._plan["inputs"][0], self._plan["outputs"][0]
        size = int(np.prod(shape))
        read = np.ctypeslib.as_array((ctypes.c_float * size).from_address(self._at[source]))
        np.ctypeslib.as_array((ctypes.c_float * size).from_address(self._at[target]))[:] = 2 * read
        return True


class _Engine:
    def __init__(self, plan):
        self._plan = plan
        if os.environ.get("FAKE_TRT_RTX"):
            self.create_runtime_config = _RuntimeConfig

    def create_engine_inspector(self):
        return _Inspector(self._plan)

    def create_execution_context(self, config=None):
        _log(call="context", cached=config is not None)
        return _Context(self._plan)


class Runtime:
    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, plan):
        found = json.loads(bytes(memoryview(plan)))
        if found["version"] != __version__:
            words = f"expecting version {found['version']}, got {__version__}"
            self._logger.log(ILogger.ERROR, words)
            return None
        return _Engine(found)


if os.environ.get("FAKE_TRT_SAYS"):
    sys.stdout.write(os.environ["FAKE_TRT_SAYS"])
