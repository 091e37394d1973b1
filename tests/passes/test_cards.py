"""The cards' examples are true: what is before becomes what is behind, and a cut in JSON is one that can be made."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from edgeprune.core.passes import Pass
from edgeprune.core.plan import StrategySpec, TokenCut, WidthCut
from edgeprune.core.text import canonical_text
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.eliminate_tail import EliminateTail
from edgeprune_passes.raise_scans import RaiseScans
from edgeprune_passes.reduce_tokens import ReduceTokens
from edgeprune_passes.registry import make_strategy, strategies
from edgeprune_passes.remove_channels import RemoveChannels
from edgeprune_passes.remove_sublayers import RemoveSublayers

CARDS = Path(__file__).resolve().parents[2] / "passes" / "cards"
PASSES: dict[str, Pass] = {
    "canonicalize": Canonicalize(batch=1),
    "eliminate-tail": EliminateTail(),
    "raise-scans": RaiseScans(),
    "reduce-tokens": ReduceTokens(cuts=(TokenCut(block=0, keep=2, strategy=StrategySpec(name="uniform")),)),
    "remove-channels": RemoveChannels(
        cuts=(WidthCut(kind="mlp", block=0, keep=2, of=3),), arrays={"mlp.0/kept": np.array([0, 2])}
    ),
    "remove-sublayers": RemoveSublayers(
        cuts=(WidthCut(kind="attention-sublayer", block=0, keep=0, of=1),),
        arrays={"attention-sublayer.0/mean": np.array([0.5, 1], np.float32)},
    ),
}


def fenced(name: str, language: str) -> list[str]:
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    section = text.split("\n## Example\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def parsed(text: str) -> ir.Model:
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text), data_prop=True))


@pytest.mark.parametrize("name", PASSES)
def test_the_card_of_a_pass_shows_what_it_does(name: str) -> None:
    before, after = fenced(name, "onnx")
    model = parsed(before)
    assert PASSES[name].apply(model).changes
    common.RemoveUnusedNodesPass()(model)
    assert canonical_text(model) == canonical_text(ir.from_proto(onnx.parser.parse_model(after)))
    assert canonical_text(model) != canonical_text(parsed(before))


@pytest.mark.parametrize("name", sorted(strategies()))
def test_the_card_of_a_strategy_shows_a_cut_that_can_be_made(name: str) -> None:
    (example,) = fenced(name, "json")
    cut = msgspec.json.decode(example, type=TokenCut)
    assert cut.strategy.name == name
    strategy = make_strategy(cut.strategy)
    assert strategy.name == name
    assert strategy.fewest(196, 1) <= cut.keep <= 196


def test_text_forgets_names_and_nothing_else() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) {{ {a} = Neg(x) y = Mul({a}, x) }}'
    one, other = (canonical_text(parsed(text.format(a=a))) for a in ("first", "second"))
    assert one == other
    changed = parsed(text.format(a="first").replace("Neg", "Abs"))
    assert canonical_text(changed) != one
