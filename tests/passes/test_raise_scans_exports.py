"""Scans as PyTorch's exporters write them: traced, scripted, and the Mamba of transformers."""

from __future__ import annotations

import io
import warnings
from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from support.ssm import apart, operators, raised, run
from torch import Tensor, nn

from edgeprune.core.graph import static_shape
from edgeprune.core.scans import is_selective_scan
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.scans.causal_conv import pads_of

TOKENS, WIDTH, STATES = 9, 8, 4


def traced(u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """u, step [b, D, L]; B, C [b, n, L]: a Python loop."""
    decay = torch.exp(step.unsqueeze(-1) * A[None, :, None, :])
    added = step.unsqueeze(-1) * B.transpose(1, 2).unsqueeze(1) * u.unsqueeze(-1)
    state = torch.zeros_like(added[:, :, 0])
    out = []
    for t in range(u.shape[-1]):
        state = decay[:, :, t] * state + added[:, :, t]
        out.append((state @ C[:, :, t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(out, dim=2)


def kept_as_a_loop(u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The same loop, kept by TorchScript."""
    state = torch.zeros(u.shape[0], u.shape[1], A.shape[1])
    out: list[Tensor] = []
    for t in range(u.shape[-1]):
        now = step[:, :, t].unsqueeze(-1)
        state = torch.exp(now * A) * state + (now.squeeze(-1) * u[:, :, t]).unsqueeze(-1) * B[:, :, t].unsqueeze(1)
        out.append((state * C[:, :, t].unsqueeze(1)).sum(-1))
    return torch.stack(out, 2)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    scripted = torch.jit.script(kept_as_a_loop)


def summed(u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """With torch.einsum, as the reference of mamba_ssm is written."""
    decay = torch.exp(torch.einsum("bdl,dn->bdln", step, A))
    added = torch.einsum("bdl,bnl,bdl->bdln", step, B, u)
    state = u.new_zeros(u.shape[0], u.shape[1], A.shape[1])
    out = []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + added[:, :, t]
        out.append(torch.einsum("bdn,bn->bd", state, C[:, :, t]))
    return torch.stack(out, dim=2)


class Branch(nn.Module):
    """Convolution, projections and the scan of one direction."""

    def __init__(self, scan) -> None:
        super().__init__()
        self.scan = scan
        self.conv = nn.Conv1d(WIDTH, WIDTH, 4, groups=WIDTH, padding=3)
        self.project = nn.Linear(WIDTH, 2 + 2 * STATES, bias=False)
        self.step = nn.Linear(2, WIDTH)
        self.log = nn.Parameter(torch.log(torch.arange(1, STATES + 1).float()).repeat(WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        u = nn.functional.silu(self.conv(x)[..., : x.shape[-1]])
        step, B, C = self.project(u.transpose(1, 2)).split([2, STATES, STATES], dim=-1)
        step = nn.functional.softplus(self.step(step)).transpose(1, 2)
        return u + self.scan(u, step, -torch.exp(self.log), B.transpose(1, 2), C.transpose(1, 2))


class Vim(nn.Module):
    """Blocks that run over the tokens in both directions."""

    def __init__(self, scan, depth: int = 2) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(depth))
        self.inner = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(depth))
        self.branches = nn.ModuleList(Branch(scan) for _ in range(2 * depth))
        self.outer = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for i, (norm, inner, outer) in enumerate(zip(self.norms, self.inner, self.outer, strict=True)):
            u, gate = inner(norm(x)).transpose(1, 2).chunk(2, dim=1)
            both = self.branches[2 * i](u) + self.branches[2 * i + 1](u.flip([-1])).flip([-1])
            x = x + outer((both * nn.functional.silu(gate)).transpose(1, 2))
        return x


def exported(module: nn.Module, *, dynamic: bool) -> ir.Model:
    data = io.BytesIO()
    axes = {"x": {0: "batch"}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.randn(1, TOKENS, WIDTH),),
            data,
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            dynamic_axes=axes,
        )
    return ir.from_proto(onnx.load_model_from_string(data.getvalue()))


@lru_cache
def vim(name: str, *, dynamic: bool) -> ir.Model:
    torch.manual_seed(0)
    return exported(Vim({"traced": traced, "scripted": scripted, "summed": summed}[name]), dynamic=dynamic)


def x(batch: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(batch).standard_normal((batch, TOKENS, WIDTH)).astype(np.float32)}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["traced", "scripted", "summed"])
def test_exports_of_a_vim_are_raised_and_give_the_same(name: str, dynamic: bool) -> None:
    model = vim(name, dynamic=dynamic)
    made = raised(model)
    assert sum(map(is_selective_scan, made.graph)) == 4
    assert not {"Loop", "Scan", "Gather", "If"} & set(operators(made))
    assert all(static_shape(value) is not None for node in made.graph for value in node.outputs)
    convolutions = [node for node in made.graph if node.op_type == "Conv"]
    assert [pads_of(node) for node in convolutions] == [(3, 0)] * 4
    assert apart(run(made, x())[0], run(model, x())[0]) < 1e-6


def test_a_batch_that_the_export_did_not_have() -> None:
    model = vim("scripted", dynamic=True)
    made = model.clone()
    Canonicalize(batch=3).apply(made)
    assert sum(map(is_selective_scan, made.graph)) == 4
    assert apart(run(made, x(3))[0], run(model, x(3))[0]) < 1e-6


def mamba():
    """MambaModel of transformers, which wants operators of a torchvision that may not fit this torch."""
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    try:
        return transformers.MambaModel, transformers.MambaConfig
    except (ImportError, RuntimeError):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    try:
        return transformers.MambaModel, transformers.MambaConfig
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"transformers has no Mamba here: {error}")


def test_the_mamba_of_transformers_is_raised() -> None:
    model_of, config = mamba()
    torch.manual_seed(0)
    settings = {"hidden_size": WIDTH, "state_size": STATES, "num_hidden_layers": 2, "vocab_size": 9, "use_cache": False}
    inner = model_of(config(**settings))

    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(inputs_embeds=x, use_cache=False).last_hidden_state

    for parameter in inner.parameters():  # far from zero, so that the scan shows in the output
        parameter.data = torch.randn_like(parameter) * 0.5
    model = exported(Embedded(), dynamic=False)
    made = raised(model)
    assert sum(map(is_selective_scan, made.graph)) == 2
    assert apart(run(made, x())[0], run(model, x())[0]) < 1e-5
