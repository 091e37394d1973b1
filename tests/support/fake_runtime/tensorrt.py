"""A stand-in for the running side of `tensorrt`: an engine is JSON, and gives `scale` times the input of the same rank.

FAKE_TRT is the version. Names that a version lacks are absent. Device memory is this process's (see fake_cudart.c).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from enum import IntEnum

import numpy as np

__version__ = os.environ.get("FAKE_TRT", "10.3.0.26")
_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}

TensorIOMode = IntEnum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
DataType = IntEnum("DataType", {"FLOAT": 0, "HALF": 1, "INT8": 2, "INT32": 3, "BOOL": 4, "INT64": 8, "BF16": 7})


class Logger:
    WARNING = 2

    def __init__(self, severity):
        assert severity == self.WARNING


class _Context:
    def __init__(self, plan):
        self._plan, self._at = plan, {}

    def set_tensor_address(self, name, address):
        assert name in self._plan["tensors"]
        self._at[name] = address
        return True

    def _array(self, name):
        each = self._plan["tensors"][name]
        kind = np.dtype(_TYPES[each["type"]])
        size = int(np.prod(each["shape"])) * kind.itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(self._at[name]), kind).reshape(each["shape"])

    def execute_async_v3(self, stream_handle):
        assert stream_handle
        if os.environ.get("FAKE_TRT_FAIL") == "run":
            return False
        tensors = self._plan["tensors"]
        inputs = {len(each["shape"]): self._array(name) for name, each in tensors.items() if each["input"]}
        for name, each in tensors.items():
            if not each["input"]:
                out = self._array(name)
                out[...] = (inputs[out.ndim].astype(np.float64) * self._plan["scale"]).astype(out.dtype)
        return True


class _Engine:
    def __init__(self, plan):
        self._plan = plan
        if not __version__.startswith("8.4"):
            self.num_io_tensors = len(plan["tensors"])

    def get_tensor_name(self, index):
        return list(self._plan["tensors"])[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if self._plan["tensors"][name]["input"] else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return self._plan["tensors"][name]["shape"]

    def get_tensor_dtype(self, name):
        return DataType[self._plan["tensors"][name]["type"]]

    def create_execution_context(self):
        return None if os.environ.get("FAKE_TRT_FAIL") == "context" else _Context(self._plan)


class Runtime:
    def __init__(self, logger):
        assert isinstance(logger, Logger)

    def deserialize_cuda_engine(self, serialized_engine):
        plan = json.loads(bytes(serialized_engine))
        if plan["version"] != __version__:
            sys.stderr.write("[TRT] [E] The engine plan file is not compatible with this version of TensorRT\n")
            return None
        return _Engine(plan)
