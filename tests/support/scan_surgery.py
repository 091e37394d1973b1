"""Cuts in tiny Vims, in canonical form, and what the oracle says of them.

The Vims here are exported with one operator a scan, as somebody's own kernel is: PyTorch's exporters take a hundred
times as long for a recurrence, and canonical form is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

import onnx_ir as ir
import torch
from support.surgery import prove_cuts
from support.tiny_torch import load, to_onnx
from support.tiny_vim import VimSpelling, build, demo_module, example
from torch import Tensor

from edgeprune.core.plan import Alignment, Option, Plan, StrategySpec, TokenCut
from edgeprune.core.recognition import recognize
from edgeprune.core.results import Exactness
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.reduce_tokens import ReduceTokens

SCAN = VimSpelling()


class _Operator(torch.autograd.Function):
    """A selective scan as one operator."""

    @staticmethod
    def forward(ctx: object, u: Tensor, *others: Tensor) -> Tensor:
        del ctx, others
        return u.clone()

    @staticmethod
    def symbolic(g: torch.Graph, *arguments: torch.Value) -> torch.Value:
        result = g.op("somebody::selective_scan", *arguments)
        result.setType(arguments[0].type())
        return result


@contextmanager
def scan_operator() -> Iterator[None]:
    """Let the demo's modules be exported with one operator a scan."""
    module = demo_module("vim")
    plain, module.selective_scan = module.selective_scan, _Operator.apply
    try:
        yield
    finally:
        module.selective_scan = plain


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Cuts of one model: patch tokens kept by block, with one strategy."""

    keep: Mapping[int, int]
    strategy: str = "random"
    options: Mapping[str, Option] = field(default_factory=dict)
    alignment: Alignment = "none"

    def listed(self) -> tuple[TokenCut, ...]:
        spec = StrategySpec(name=self.strategy, options=dict(self.options))
        return tuple(TokenCut(block=block, keep=keep, strategy=spec) for block, keep in self.keep.items())


def canonical_vim(spelling: VimSpelling, batch: int) -> ir.Model:
    """A fresh graph of a spelling in canonical form."""
    return _canonical(spelling, batch).clone()


@lru_cache
def _canonical(spelling: VimSpelling, batch: int) -> ir.Model:
    with scan_operator():
        model = load(to_onnx(build(spelling), example(spelling, 2)))
    Canonicalize(batch=batch).apply(model)
    return model


def reduce_vim(model: ir.Model, cuts: Cuts) -> Plan:
    """Cut in place."""
    found = recognize(model)
    stream = found.found
    ReduceTokens(cuts.listed(), alignment=cuts.alignment).apply(model)
    return Plan(
        model_sha256="",
        inputs={},
        patch_tokens=stream.patches,
        prefix_tokens=stream.prefix,
        prefix_place=stream.place,
        blocks=len(found.blocks),
        cuts=cuts.listed(),
        alignment=cuts.alignment,
    )


def prove_vim(dense: ir.Model, pruned: ir.Model, plan: Plan, spelling: VimSpelling, batch: int) -> Exactness:
    """The oracle's verdict on one batch."""
    return prove_cuts(dense, pruned, plan, [example(spelling, batch)])
