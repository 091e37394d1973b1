from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from edgeprune_calibration.sources import Export, export_torch

torch = pytest.importorskip("torch", reason="PyTorch is an extra")
from support.tiny_vim import VimSpelling, build, demo_module, example  # noqa: E402

MODULE = "torch_scans_of_tests"
TOKENS, CHANNELS, STATES = 9, 5, 3


def scan_of_mamba(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """The reference of mamba_ssm, by its signature; u, delta, z [B,D,L], B, C [B,n,L]."""
    step = delta if delta_bias is None else delta + delta_bias[:, None]
    step = torch.nn.functional.softplus(step) if delta_softplus else step
    state, outputs = torch.zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        state = torch.exp(step[:, :, t, None] * A) * state + (step * u)[:, :, t, None] * B[:, None, :, t]
        outputs.append((state * C[:, None, :, t]).sum(-1))
    y = torch.stack(outputs, 2)
    y = y if D is None else y + u * D[:, None]
    y = y if z is None else y * torch.nn.functional.silu(z)
    return (y, state) if return_last_state else y


def scan_of_another_kind(u, delta, A, B, C, D=None):
    """Looks like one, and lets the input decay too."""
    return scan_of_mamba(u * 0.5, delta, A, B, C, D)


class Mixer(torch.nn.Module):
    """Everything that the scan takes is made of its input."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inputs = torch.nn.Linear(channels, 3 * channels + 2 * STATES)
        self.sizes = (channels, channels, channels, STATES, STATES)
        self.A = -torch.rand(channels, STATES) - 0.1
        self.D, self.bias = torch.rand(channels), torch.rand(channels)

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.inputs(x).split(self.sizes, -1)


class OfMamba(Mixer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, delta, z, B, C = (part.transpose(1, 2) for part in self.parts(x))
        scan = sys.modules[MODULE].selective_scan_fn
        return scan(u, delta, self.A, B, C, self.D, z=z, delta_bias=self.bias, delta_softplus=True)


class OfAnotherKind(Mixer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, delta, _, B, C = (part.transpose(1, 2) for part in self.parts(x))
        return sys.modules[MODULE].selective_scan(u, delta.exp(), self.A, B, C, self.D)


class WithLastState(Mixer):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u, delta, _, B, C = (part.transpose(1, 2) for part in self.parts(x))
        return sys.modules[MODULE].selective_scan_fn(u, delta.exp(), self.A, B, C, return_last_state=True)


class ByMethod(Mixer):
    """mambapy's way: a method, channels last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, delta, _, B, C = self.parts(x)
        return self.selective_scan(u, delta.exp(), self.A, B, C, self.D)

    def selective_scan(self, x, delta, A, B, C, D):
        y = scan_of_mamba(*(each.transpose(1, 2) for each in (x, delta)), A, B.transpose(1, 2), C.transpose(1, 2), D)
        return y.transpose(1, 2)


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module as a user's: scans by their usual names, classes that say that they come from it, and factories."""
    made = ModuleType(MODULE)
    made.selective_scan_fn, made.selective_scan = scan_of_mamba, scan_of_another_kind
    for each in (OfMamba, OfAnotherKind, WithLastState, ByMethod):
        monkeypatch.setattr(each, "__module__", MODULE)
        setattr(made, each.__name__.lower(), lambda each=each: (each(), torch.randn(2, TOKENS, CHANNELS)))
    made.square = lambda: (ByMethod(TOKENS), torch.randn(2, TOKENS, TOKENS))
    made.vim = lambda: (build(VimSpelling()), torch.from_numpy(example(VimSpelling(), 1)["image"]))
    monkeypatch.setitem(sys.modules, MODULE, made)
    return made


def exported(factory: str, folder: Path, **options: object) -> tuple[Export, Counter[str]]:
    made = export_torch(f"{MODULE}:{factory}", folder / "model.onnx", **{"exporter": "torchscript", **options})
    model = onnx.load(made.path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.functions
    return made, Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_vim_leaves_with_one_scan_a_direction(tmp_path: Path, exporter: str) -> None:
    vim = demo_module("vim")
    before = vim.selective_scan
    made, operators = exported("vim", tmp_path, exporter=exporter, dynamic_batch=True)
    assert operators["Scan"] == 2 * VimSpelling().depth
    assert operators.total() < 150 * VimSpelling().depth
    assert made.max_abs_error <= 1e-5 * made.max_abs_value
    assert vim.selective_scan is before


@pytest.mark.parametrize("factory", ["ofmamba", "bymethod", "square"])
def test_scans_of_either_layout_and_with_all_that_mamba_adds(tmp_path: Path, factory: str) -> None:
    made, operators = exported(factory, tmp_path)
    assert operators["Scan"] == 1
    assert made.max_abs_error <= 1e-5 * made.max_abs_value


@pytest.mark.parametrize("factory", ["ofanotherkind", "withlaststate"])
def test_what_computes_something_else_is_left_as_it_is(tmp_path: Path, factory: str) -> None:
    made, operators = exported(factory, tmp_path)
    assert operators["Scan"] == 0
    assert operators["Exp"] >= TOKENS
    assert made.max_abs_error <= 1e-5 * made.max_abs_value
