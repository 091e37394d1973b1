"""The benchmark for a machine with a GPU, as far as it runs without one: PyTorch's graph computes what ONNX says."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import edgeprune
from edgeprune_calibration.runner import Runner
from edgeprune_targets.builders.driver import find_device

torch = pytest.importorskip("torch", reason="needs the extra torch")


def test_without_a_device_it_ends_with_a_sentence(project):
    if find_device() is not None:
        pytest.skip("there is a device here")
    script = project / "benchmarks" / "gpu_pairs.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "no NVIDIA device here: run this on a machine with one and its driver; nothing was measured\n"
    )


# zero-tprune reads the probabilities at each of its four cuts, and what is read a second time cannot be fused.
@pytest.mark.parametrize(
    ("strategy", "fused"), [("cls-topk", 6), ("importance-merge", 6), ("tome", 6), ("zero-tprune", 2)]
)
def test_the_graph_in_pytorch_gives_what_it_gives_in_onnx_runtime(strategy, fused, project, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(project / "benchmarks")
    from _torch_graph import TorchGraph

    from edgeprune.compiler.timing.contenders import open_contenders

    options = edgeprune.Options(strategy=strategy, cuts=4, threads=1)
    edgeprune.compile(project / "demo" / "digits_vit.onnx", keep=0.6, out=tmp_path / "out", options=options)
    feed = {"image": np.load(project / "demo" / "digits_test.npz")["image"][:1]}
    for one in open_contenders(project / "demo" / "digits_vit.onnx", tmp_path / "out", options):
        graph = TorchGraph(one.model, "cpu")
        wanted = Runner(one.model, threads=1, optimise=False).run(feed)["logits"]
        found = graph.run(feed)["logits"]
        assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()  # fp32 rounding of six blocks
        assert len(graph.attentions) == (6 if one.role == "dense" else fused)
