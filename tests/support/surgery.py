"""Apply cuts to a tiny transformer and judge the result: shared by tests of passes, refusals and properties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
import onnx_ir as ir
from support.tiny_torch import Spelling, exported, load

from edgeprune.core.plan import Plan, Restore, StrategySpec, TokenCut
from edgeprune.core.recognition import recognize
from edgeprune.core.results import Exactness
from edgeprune_calibration.oracle import find_sites, prove
from edgeprune_calibration.runner import Runner
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.reduce_tokens import ReduceTokens


def canonical(spelling: Spelling, batch: int, opset: int = 17, *, dynamo: bool = False) -> ir.Model:
    """A fresh graph of a spelling in canonical form."""
    return _canonical(spelling, batch, opset, dynamo=dynamo).clone()


@lru_cache
def _canonical(spelling: Spelling, batch: int, opset: int, *, dynamo: bool) -> ir.Model:
    model = load(exported(spelling, opset=opset, dynamo=dynamo))
    Canonicalize(batch=batch).apply(model)
    return model


def reduce(model: ir.Model, keep: Mapping[int, int], *strategies: str, restore: Restore = "auto") -> Plan:
    """Cut in place; `keep` patch tokens by block, with one strategy for all cuts or one for each."""
    stream = recognize(model).found
    names = strategies * len(keep) if len(strategies) == 1 else strategies
    cuts = tuple(
        TokenCut(block=block, keep=count, strategy=StrategySpec(name=name))
        for (block, count), name in zip(keep.items(), names, strict=True)
    )
    ReduceTokens(cuts, restore).apply(model)
    blocks = 1 + max(keep)
    return Plan(
        model_sha256="",
        inputs={},
        patch_tokens=stream.tokens - stream.prefix,
        prefix_tokens=stream.prefix,
        prefix_place=stream.place,
        blocks=blocks,
        cuts=cuts,
    )


def prove_cuts(dense: ir.Model, pruned: ir.Model, plan: Plan, feeds: Iterable[dict[str, np.ndarray]]) -> Exactness:
    """The mask oracle's verdict."""
    blocks = recognize(dense).blocks
    at = [str(cut.name) for cut in (blocks[c.block].cut for c in plan.cuts) if cut is not None]
    return prove(dense, pruned, plan, find_sites(pruned, plan, at), [((), feed) for feed in feeds], threads=1)


def forward(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs, node by node as they stand in the graph."""
    return Runner(model, threads=1, optimise=False).run(feeds)
