"""The same surgery on one transformer after another: recognised, cut exactly, the identity where all is kept."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.surgery import canonical, forward, prove_cuts, reduce
from support.tiny_torch import Spelling, example

from edgeprune.core.costs import count_macs
from edgeprune.core.recognition import recognize
from edgeprune_passes.eliminate_tail import EliminateTail

SPELLINGS = {
    "fused qkv": Spelling(),
    "separate projections": Spelling(attention="separate"),
    "split on the last axis": Spelling(attention="packed"),
    "nn.MultiheadAttention": Spelling(attention="mha"),
    "post-norm": Spelling(norm="post"),
    "no norm": Spelling(norm="none"),
    "parallel attention and MLP": Spelling(parallel=True),
    "layer scale": Spelling(scale_layers=True),
    "registers": Spelling(prefix=5),
    "distilled": Spelling(prefix=2, head="two"),
    "no prefix, mean of tokens": Spelling(prefix=0, head="mean"),
    "mean of patch tokens": Spelling(head="mean"),
    "attention pool": Spelling(prefix=0, head="pool"),
    "attention pool beside a class token": Spelling(head="pool"),
    "relative position bias": Spelling(relative=True),
    "rotated patches behind registers": Spelling(rope=True, prefix=5),
    "rotated tokens": Spelling(rope=True, prefix=0, head="mean"),
    "width equals patches": Spelling(width=33, prefix=8),
    "causal, grouped queries": Spelling(text=True, attention="grouped"),
    "mask as an input": Spelling(text=True, attention="eager", norm="post"),
    "output of all tokens": Spelling(head="tokens"),
    "convolutional decoder": Spelling(head="grid"),
    "taps": Spelling(head="taps"),
    "all states": Spelling(head="states"),
    "all states, post-norm": Spelling(head="states", norm="post"),
}
EVERY = pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())


@EVERY
@pytest.mark.parametrize("batch", [1, 2])
def test_what_is_recognised(spelling: Spelling, batch: int) -> None:
    found = recognize(canonical(spelling, batch))
    stream = found.found
    prefix = 1 if spelling.text else spelling.prefix
    assert (stream.tokens, stream.prefix, stream.batch) == (spelling.tokens, prefix, batch)
    assert stream.grid == (None if spelling.text else (5, 5))
    assert [block.index for block in found.blocks] == list(range(spelling.depth))
    assert all(len(block.attentions) == 1 and block.cut is not None for block in found.blocks)
    heads = batch * 3 if spelling.attention == "mha" and len(found.blocks[0].attention.probs.shape) == 3 else 3
    assert {(block.attention.heads, block.attention.head_size) for block in found.blocks} == {
        (heads, spelling.width // 3)
    }


@EVERY
@pytest.mark.parametrize("batch", [1, 2])
def test_keeping_all_is_the_identity(spelling: Spelling, batch: int) -> None:
    dense = canonical(spelling, batch)
    kept = dense.clone()
    reduce(kept, {block: spelling.tokens - recognize(dense).found.prefix for block in range(2)}, "keep-all")
    feeds = example(spelling, batch)
    for name, wanted in forward(dense, feeds).items():
        np.testing.assert_array_equal(forward(kept, feeds)[name], wanted)


@EVERY
@pytest.mark.parametrize("batch", [1, 2])
def test_cuts_equal_the_masked_dense_graph(spelling: Spelling, batch: int) -> None:
    """A choice, other tokens in each sample, and a merge behind it."""
    dense, pruned = canonical(spelling, batch), canonical(spelling, batch)
    prefix = recognize(dense).found.prefix
    patches = spelling.tokens - prefix
    plan = reduce(pruned, {0: round(patches * 0.8), 1: round(patches * 0.5)}, "random", "tome")
    onnx.checker.check_model(ir.to_proto(pruned), full_check=True)
    result = prove_cuts(dense, pruned, plan, [example(spelling, batch, seed) for seed in (1, 2)])
    assert result.passed, result
    assert result.max_abs_error < 2e-5  # fp32 sums in another order through three blocks, values of a few units
    assert result.sensitivity > 1e-3


@EVERY
def test_restored_outputs_have_the_dense_shape(spelling: Spelling) -> None:
    dense, pruned = canonical(spelling, 2), canonical(spelling, 2)
    patches = spelling.tokens - recognize(dense).found.prefix
    reduce(pruned, {0: patches // 2}, "uniform")
    feeds = example(spelling, 2)
    found = forward(pruned, feeds)
    for (name, wanted), declared in zip(forward(dense, feeds).items(), pruned.graph.outputs, strict=True):
        assert found[name].shape == wanted.shape == tuple(declared.shape)


@EVERY
def test_nothing_before_the_first_cut_changes(spelling: Spelling) -> None:
    """Literals are shared by all blocks in some exports: they are cloned, never edited."""
    dense, pruned = canonical(spelling, 1), canonical(spelling, 1)
    before = {name: value.const_value.numpy().copy() for name, value in pruned.graph.initializers.items()}
    reduce(pruned, {1: 6}, "uniform")
    for name, value in pruned.graph.initializers.items():
        if name in before:
            np.testing.assert_array_equal(value.const_value.numpy(), before[name])
    kept = next(i for i, node in enumerate(pruned.graph) if str(node.name).startswith("edgeprune/"))
    for ours, theirs in zip(list(pruned.graph)[:kept], dense.graph, strict=False):
        assert (ours.name, ours.op_type, ours.attributes.keys()) == (
            theirs.name,
            theirs.op_type,
            theirs.attributes.keys(),
        )
        assert [v and v.name for v in ours.inputs] == [v and v.name for v in theirs.inputs]


@EVERY
def test_the_same_plan_gives_the_same_bytes(spelling: Spelling) -> None:
    texts = []
    for _ in range(2):
        model = canonical(spelling, 1)
        reduce(model, {0: 9, 2: 4}, "mean-attention")
        texts.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert texts[0] == texts[1]


@EVERY
@pytest.mark.parametrize("batch", [1, 2])
def test_tail_elimination_is_exact_or_declined(spelling: Spelling, batch: int) -> None:
    dense, short = canonical(spelling, batch), canonical(spelling, batch)
    result = EliminateTail().apply(short)
    feeds = example(spelling, batch)
    for name, wanted in forward(dense, feeds).items():
        np.testing.assert_allclose(forward(short, feeds)[name], wanted, atol=1e-5, rtol=1e-5)  # other order of sums
    reads_prefix_alone = spelling.head in {"class", "two"} and spelling.prefix > 0
    assert bool(result.changes) == reads_prefix_alone, result.refusals
    if result.changes:
        assert count_macs(short) < 0.92 * count_macs(dense)
        assert EliminateTail().apply(short).changes == 0
    else:
        assert ir.to_proto(short).SerializeToString(deterministic=True) == ir.to_proto(dense).SerializeToString(
            deterministic=True
        )


@pytest.mark.parametrize("name", [name for name, s in SPELLINGS.items() if s.head in {"class", "two"}])
def test_cuts_behind_an_eliminated_tail_are_exact(name: str) -> None:
    spelling = SPELLINGS[name]
    dense, pruned = canonical(spelling, 2), canonical(spelling, 2)
    assert EliminateTail().apply(pruned).changes
    patches = spelling.tokens - recognize(dense).found.prefix
    plan = reduce(pruned, {0: round(patches * 0.7)}, "random")
    result = prove_cuts(dense, pruned, plan, [example(spelling, 2, seed) for seed in (1, 2)])
    assert result.passed, result


@pytest.mark.parametrize(
    "name", ["fused qkv", "nn.MultiheadAttention", "mask as an input", "rotated patches behind registers"]
)
@pytest.mark.parametrize("opset", [14, 18])
def test_opsets_are_cut_alike(name: str, opset: int) -> None:
    """Opset 14 has LayerNormalization in nine operators, 18 has reductions with axes as an input."""
    spelling = SPELLINGS[name]
    dense, pruned = canonical(spelling, 2, opset), canonical(spelling, 2, opset)
    plan = reduce(pruned, {0: 9, 1: 5}, "random")
    assert prove_cuts(dense, pruned, plan, [example(spelling, 2, 1)]).passed
