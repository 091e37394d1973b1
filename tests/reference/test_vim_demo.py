"""The trained Vim of the demo: its gradient, its graph against the judge, and what its page says of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.tiny_vim import demo_module

from edgeprune_calibration.runner import Runner
from reference.vim_torch import VimReference


def test_the_scan_of_training_has_the_gradient_of_the_recurrence() -> None:
    torch.manual_seed(0)
    tokens, batch, channels, states = 7, 2, 3, 2
    u, delta = (torch.rand(tokens, batch, channels, dtype=torch.double, requires_grad=True) for _ in range(2))
    B, C = (torch.randn(tokens, batch, states, dtype=torch.double, requires_grad=True) for _ in range(2))
    A = (-torch.rand(states, channels, dtype=torch.double)).requires_grad_()
    assert torch.autograd.gradcheck(demo_module("vim").FastScan.apply, (u, delta, A, B, C))


def test_the_graph_holds_one_scan_a_direction_and_gives_what_the_judge_gives(project: Path) -> None:
    path = project / "demo" / "digits_vim.onnx"
    assert Counter(node.op_type for node in onnx.load(path).graph.node)["Scan"] == 12
    images = np.load(project / "demo" / "digits_vim_test.npz")["image"][:16]
    found = Runner(path, threads=1).run({"image": images})["output"]
    trained = project / "benchmarks" / "digits_vim" / "digits_vim_0.npz"
    if not trained.exists():
        pytest.skip("the source distribution leaves the benchmarks' weights out")
    with np.load(trained) as weights:
        judge = VimReference({name: torch.from_numpy(weights[name]) for name in weights.files})
    with torch.no_grad():
        wanted = judge(torch.from_numpy(images)).numpy()
    # Logits of a few units, sums over 65 steps in six blocks, in fp32.
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_it_reads_digits_that_it_has_not_seen(project: Path) -> None:
    images = np.load(project / "demo" / "digits_vim_test.npz")["image"]
    labels = np.load(project / "demo" / "digits_vim_labels.npy")
    found = Runner(project / "demo" / "digits_vim.onnx", threads=1).run({"image": images})["output"]
    assert (found.argmax(-1) == labels).sum() >= 250  # of 256; 255 when it was written
