"""Vim (Vision Mamba) in plain PyTorch: bidirectional Mamba-1 blocks, the class token in the middle of the sequence.

A block reads the sequence twice, forwards and backwards, each time by a causal depthwise convolution and a selective
scan with the recurrence

    h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t        y_t = C_t h_t + D u_t

and gates the sum of both by SiLU(z). `edgeprune export` writes `selective_scan` as one ONNX `Scan`.

Source: Gu and Dao, "Mamba", 2023, sections 3.2 and 3.5; Zhu et al., "Vision Mamba", 2024, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a Vim is: `width` of the stream, `states` a channel, `kernel` of the convolution."""

    side: int = 32
    patch: int = 4
    channels: int = 1
    width: int = 48
    depth: int = 6
    states: int = 8
    kernel: int = 4
    classes: int = 10

    @property
    def patches(self) -> int:
        """Patch tokens."""
        return (self.side // self.patch) ** 2


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None) -> Tensor:
    """The recurrence at the head of this file, in the layout of mamba_ssm.

    Shapes: u, delta, y [B,D,L]; A [D,n]; B, C [B,n,L]; D [D].
    """
    arguments = (u.permute(2, 0, 1), delta.permute(2, 0, 1), A.t(), B.permute(2, 0, 1), C.permute(2, 0, 1))
    y = (FastScan.apply(*arguments) if torch.is_grad_enabled() else _steps(*arguments)[0]).permute(1, 2, 0)
    return y if D is None else y + u * D[:, None]


def _steps(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Outputs [L,B,D] and the states [B,n,D] of each step, of inputs whose first axis is time."""
    state = u.new_zeros(u.shape[1], A.shape[0], u.shape[2])
    outputs, states = [], []
    for step, b, c, x in zip(delta.unbind(), B.unbind(), C.unbind(), (delta * u).unbind(), strict=True):
        state = torch.addcmul(b[:, :, None] * x[:, None], (step[:, None] * A).exp(), state)
        outputs.append((c[:, :, None] * state).sum(1))
        states.append(state)
    return torch.stack(outputs), states


class FastScan(torch.autograd.Function):
    """The same with a backward pass written out; autograd's own tape of the loop takes several times as long.

    With g_t the gradient at h_t and c_t = exp(delta_t A) g_t: g_t = C_t dy_t + c_(t+1), and the gradient at the
    exponent delta_t A is c_t h_(t-1).
    """

    @staticmethod
    def forward(ctx, u, delta, A, B, C):  # noqa: D102
        u, delta, A, B, C = (tensor.contiguous() for tensor in (u, delta, A, B, C))
        y, states = _steps(u, delta, A, B, C)
        ctx.save_for_backward(u, delta, A, B, C, *states)
        return y

    @staticmethod
    def backward(ctx, dy):  # noqa: D102
        u, delta, A, B, C, *states = ctx.saved_tensors
        inputs = delta * u
        at_inputs, at_delta, at_A = torch.empty_like(u), torch.empty_like(u), torch.zeros_like(A)
        at_B, at_C = torch.empty_like(B), torch.empty_like(C)
        carried, work = torch.zeros_like(states[0]), torch.empty_like(states[0])
        for t in range(len(u) - 1, -1, -1):
            gradient = torch.addcmul(carried, C[t, :, :, None], dy[t, :, None])
            torch.sum(torch.mul(gradient, B[t, :, :, None], out=work), 1, out=at_inputs[t])
            torch.sum(torch.mul(gradient, inputs[t, :, None], out=work), 2, out=at_B[t])
            torch.sum(torch.mul(states[t], dy[t, :, None], out=work), 2, out=at_C[t])
            carried = torch.mul(delta[t, :, None], A).exp_().mul_(gradient)
            if t:
                exponent = torch.mul(carried, states[t - 1], out=work)
                at_A += (exponent * delta[t, :, None]).sum(0)
                torch.sum(exponent.mul_(A), 1, out=at_delta[t])
        at_delta[0] = 0
        return at_inputs * delta, at_delta.addcmul_(at_inputs, u), at_A, at_B, at_C


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,D] -> [B,T,D]."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Direction(nn.Module):
    """Convolution, the three projections of the input, and the scan, in one direction."""

    def __init__(self, inner: int, rank: int, states: int, kernel: int) -> None:
        super().__init__()
        self.sizes = (rank, states, states)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1)
        self.x_proj = nn.Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        # softplus(bias) is between 0.001 and 0.1 at first, evenly in its logarithm
        dt = torch.exp(torch.empty(inner).uniform_(math.log(0.001), math.log(0.1)))
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, x: Tensor) -> Tensor:
        """[B,D,L] -> [B,D,L]."""
        x = functional.silu(self.conv(x)[..., : x.shape[-1]])
        dt, B, C = self.x_proj(x.transpose(1, 2)).split(self.sizes, dim=-1)
        delta = functional.softplus(self.dt_proj(dt)).transpose(1, 2)
        return selective_scan(x, delta, -self.A_log.exp(), B.transpose(1, 2), C.transpose(1, 2), self.D)


class Block(nn.Module):
    """Pre-norm, both directions over one input projection, gate, output projection, residual."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        inner, rank = 2 * size.width, math.ceil(size.width / 16)
        self.norm = RMSNorm(size.width)
        self.in_proj = nn.Linear(size.width, 2 * inner, bias=False)
        self.forwards = Direction(inner, rank, size.states, size.kernel)
        self.backwards = Direction(inner, rank, size.states, size.kernel)
        self.out_proj = nn.Linear(inner, size.width, bias=False)

    def forward(self, stream: Tensor) -> Tensor:
        """[B,T,D] -> [B,T,D]."""
        x, z = self.in_proj(self.norm(stream)).transpose(1, 2).chunk(2, dim=1)
        y = self.forwards(x) + self.backwards(x.flip(-1)).flip(-1)
        return stream + self.out_proj((y * functional.silu(z)).transpose(1, 2))


class Vim(nn.Module):
    """Image classifier: patches in raster order, half of them before the class token and half behind."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size, self.middle = size, size.patches // 2
        self.patches = nn.Conv2d(size.channels, size.width, size.patch, stride=size.patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, size.width).normal_(std=0.02))
        self.positions = nn.Parameter(torch.empty(1, size.patches + 1, size.width).normal_(std=0.02))
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.norm = RMSNorm(size.width)
        self.head = nn.Linear(size.width, size.classes)
        for block in self.blocks:
            block.out_proj.weight.data /= math.sqrt(size.depth)

    def forward(self, image: Tensor) -> Tensor:
        """[B,channels,side,side] -> logits [B,classes]."""
        x = self.patches(image).flatten(2).transpose(1, 2)
        token = self.class_token.expand(x.shape[0], -1, -1)
        x = torch.cat([x[:, : self.middle], token, x[:, self.middle :]], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, self.middle])
