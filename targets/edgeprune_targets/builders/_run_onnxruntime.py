"""A model that ONNX Runtime optimised offline, loaded as it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.core.errors import TargetError
from edgeprune_targets.builders.manifest import Manifest

if TYPE_CHECKING:
    from edgeprune_targets.builders.runner import Arrays, Feeds


class OrtEngine:
    """A session on the provider that the model was built for."""

    def __init__(self, path: Path, manifest: Manifest, threads: int) -> None:
        import onnxruntime as ort

        provider = str(manifest.options["provider"])
        if provider not in ort.get_available_providers():
            msg = f"the model {path} was built for {provider}, which ONNX Runtime does not have here"
            raise TargetError(msg, hint='pip install "edgeprune[gpu]" in place of onnxruntime')
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it was done by the build
        settings = {key: str(value) for key, value in manifest.options.items() if key not in {"provider", "level"}}
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=[(provider, settings)])
        except Exception as error:  # onnxruntime's own classes, by no public base
            msg = f"ONNX Runtime cannot load {path}: {str(error).strip().splitlines()[0][:300]}"
            raise TargetError(msg, hint="build it on this machine again") from error
        self._names = [each.name for each in manifest.outputs]
        self._feeds: dict[str, Any] = {}

    def load(self, feeds: Feeds) -> None:
        """Keep the feeds; they are on the CPU."""
        self._feeds = dict(feeds)

    def run(self) -> Arrays:
        """Run once on what was loaded."""
        return dict(zip(self._names, self._session.run(self._names, self._feeds), strict=True))

    def sample_ms(self) -> float:
        """Run once, by this machine's clock."""
        start = time.perf_counter_ns()
        self._session.run(self._names, self._feeds)
        return (time.perf_counter_ns() - start) / 1e6

    def close(self) -> None:
        """End the session."""
        self._session = None
