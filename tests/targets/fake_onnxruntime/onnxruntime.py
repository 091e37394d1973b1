"""A stand-in for onnxruntime with a GPU, or with a fault: it writes down how its sessions were made.

FAKE_ORT_CRASHES names the levels of optimisation over which it crashes, FAKE_ORT_HAS the providers that load.
"""

from __future__ import annotations

import json
import os
import signal
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

__version__ = "1.31.1"
GraphOptimizationLevel = IntEnum(
    "GraphOptimizationLevel",
    {
        "ORT_DISABLE_ALL": 0,
        "ORT_ENABLE_BASIC": 1,
        "ORT_ENABLE_EXTENDED": 2,
        "ORT_ENABLE_LAYOUT": 3,
        "ORT_ENABLE_ALL": 99,
    },
)


class SessionOptions:
    def __init__(self):
        self.optimized_model_filepath, self.entries = "", {}

    def add_session_config_entry(self, key, value):
        self.entries[key] = value


class InferenceSession:
    def __init__(self, path, options, providers):
        level = GraphOptimizationLevel(options.graph_optimization_level).name
        if level in os.environ.get("FAKE_ORT_CRASHES", "").split():
            os.kill(os.getpid(), signal.SIGSEGV)
        assert Path(path).exists()
        written = options.optimized_model_filepath or options.entries["ep.context_file_path"]
        made = {"level": level, "providers": providers, "entries": options.entries}
        Path(written).write_text(json.dumps(made), encoding="utf-8")

    def get_providers(self):
        return os.environ.get("FAKE_ORT_HAS", "CPUExecutionProvider").split()

    def get_inputs(self):
        return [SimpleNamespace(name="x", type="tensor(float16)", shape=["batch", 4])]

    def get_outputs(self):
        return [SimpleNamespace(name="y", type="tensor(float)", shape=[1, 4])]
