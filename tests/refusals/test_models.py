"""Whole models that must not be cut, or only with their tokens brought back: code, sentence and node, word for word."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from support.surgery import canonical, forward, reduce
from support.tiny_torch import Attention, Spelling, Tiny, build, example, load, to_onnx
from torch import Tensor, nn

from edgeprune.core.errors import ModelError, PlanError
from edgeprune.core.plan import StrategySpec, TokenCut
from edgeprune.core.recognition import Recognition, recognize
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.eliminate_tail import EliminateTail
from edgeprune_passes.reduce_tokens import ReduceTokens

GRID, WIDTH = 5, 24
PLAIN = Spelling(prefix=0, head="mean")


class Windows(nn.Module):
    """Attention within windows of the grid, as in Swin."""

    def __init__(self, *, grid: bool) -> None:
        super().__init__()
        self.attention, self.grid = Attention(PLAIN), grid

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        B, D = x.shape[0], x.shape[-1]
        windows = x.reshape(B, GRID, GRID, D).transpose(1, 2).reshape(B * GRID, GRID, D)
        out = self.attention(windows, mask).reshape(B, GRID, GRID, D).transpose(1, 2).reshape(B, GRID * GRID, D)
        return x + out


class Convolution(nn.Module):
    """A convolution over the grid between blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        del mask
        grid = x.transpose(1, 2).reshape(x.shape[0], WIDTH, GRID, GRID)
        return x + self.convolution(grid).flatten(2).transpose(1, 2)


class Neighbours(nn.Module):
    """A convolution along the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        del mask
        return x + self.convolution(x.transpose(1, 2)).transpose(1, 2)


class Channels(nn.Module):
    """Attention of channels to each other, as in XCiT."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        del mask
        weights = (x.transpose(1, 2) @ x).softmax(-1)
        return x + x @ weights


class Excite(nn.Module):
    """A gate from the mean of all tokens."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        del mask
        return x * x.mean(1, keepdim=True).sigmoid()


class Shuffle(Tiny):
    """A head that folds 5x1 tokens into channels."""

    def read(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], GRID, GRID * WIDTH)


class EndOfText(Tiny):
    """A head that reads the token with the largest id, as CLIP's text tower."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        del mask
        y = self.embed(x)
        for block in self.blocks:
            y = block(y, None)
        return self.head(y[torch.arange(y.shape[0]), x.argmax(-1)])


def between(extra: nn.Module, *, at: int = 1) -> nn.Module:
    """The plain transformer with something else among its blocks."""
    model = build(PLAIN)
    model.blocks.insert(at, extra)
    return model.eval()


@lru_cache
def exported(name: str) -> bytes:
    torch.manual_seed(2)
    spelling = PLAIN
    if name == "end of text":
        spelling = Spelling(text=True)
        model: nn.Module = EndOfText(spelling).eval()
    elif name == "shuffle":
        model = Shuffle(PLAIN).eval()
    elif name == "windows alone":
        model = build(PLAIN)
        model.blocks = nn.ModuleList(Windows(grid=True) for _ in range(2))
    elif name == "no transformer":
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 256, 3)
        ).eval()
    else:
        kinds = {
            "windows": Windows(grid=True),
            "convolution": Convolution(),
            "neighbours": Neighbours(),
            "channels": Channels(),
            "excite": Excite(),
        }
        model = between(kinds[name].eval())
    return to_onnx(model, example(spelling, 2))


def model_of(name: str, batch: int = 1) -> ir.Model:
    model = load(exported(name))
    Canonicalize(batch=batch).apply(model)
    return model


REFUSED = {
    "windows": [
        (
            "token-axis-split",
            "the token axis is split by a reshape to [1, 5, 5, 24] (Reshape node)",
            "/blocks.1/Reshape",
        )
    ],
    "windows alone": [
        (
            "token-axis-split",
            "the token axis is split by a reshape to [1, 5, 5, 24] (Reshape node)",
            "/blocks.0/Reshape",
        )
    ],
    "convolution": [
        (
            "token-axis-split",
            "the token axis is split by a reshape to [1, 24, 5, 5] (Reshape node)",
            "/blocks.1/Reshape",
        )
    ],
    "neighbours": [
        (
            "convolution-over-tokens",
            "a convolution or pool runs over neighbouring tokens (Conv node)",
            "/blocks.1/convolution/Conv",
        )
    ],
    "channels": [
        (
            "contraction-without-softmax",
            "tokens are contracted without a softmax over them (channel or linear attention) (MatMul node)",
            "/blocks.1/MatMul",
        )
    ],
    "excite": [
        ("pooled-value-reenters", "a statistic over all tokens meets the tokens again (Mul node)", "/blocks.1/Mul")
    ],
    "no transformer": [("no-attention", "the graph has neither softmax attention nor a selective scan", None)],
}


def said(found: Recognition) -> list[tuple[str, str, str | None]]:
    return [(r.code.value, r.reason, r.at[0] if r.at else None) for r in found.refusals]


@pytest.mark.parametrize("name", REFUSED)
def test_the_model_is_refused_as_a_whole(name: str) -> None:
    model = model_of(name)
    found = recognize(model)
    assert found.stream is None
    assert said(found) == REFUSED[name]
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert EliminateTail().apply(model).changes == 0
    with pytest.raises(ModelError, match=r"^no tokens can be cut in this model: " + REFUSED[name][0][0]) as caught:
        ReduceTokens((TokenCut(block=0, keep=3, strategy=StrategySpec(name="random")),)).apply(model)
    assert caught.value.hint == "`edgeprune inspect` shows what was recognised and what was refused"
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


HEADS = {
    "shuffle": ("token-axis-split", "the token axis is split by a reshape to [1, 5, 120] (Reshape node)", "/Reshape_1"),
    "end of text": (
        "runtime-token-gather",
        "a position among the tokens is computed at run time (ArgMax node)",
        "/ArgMax",
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_needs_all_tokens_gets_them_back_or_is_refused(name: str) -> None:
    dense, pruned = model_of(name), model_of(name)
    found = recognize(dense)
    assert found.refusals == ()
    assert [(r.code.value, r.reason, r.at[0]) for r in found.head_refusals] == [HEADS[name]]
    reduce(pruned, {0: 8, 1: 6}, "uniform")
    feeds = example(Spelling(text=True) if name == "end of text" else PLAIN, 1)
    (wanted,), (given,) = forward(dense, feeds).values(), forward(pruned, feeds).values()
    assert wanted.shape == given.shape
    with pytest.raises(PlanError, match=r"^the head needs all tokens: " + HEADS[name][0]) as caught:
        reduce(model_of(name), {0: 8}, "uniform", restore="none")
    assert caught.value.hint == "let tokens be restored: --restore auto"


def test_per_token_outputs_get_shorter_where_nothing_is_restored() -> None:
    model = canonical(Spelling(head="tokens"), 1)
    reduce(model, {0: 8, 1: 6}, "uniform", restore="none")
    (output,) = forward(model, example(Spelling(), 1)).values()
    assert output.shape == (1, 1 + 6, 7)


def test_an_unknown_number_of_tokens_is_no_guess() -> None:
    proto = onnx.load_from_string(exported("excite"))
    for dim in list(proto.graph.input[0].type.tensor_type.shape.dim)[2:]:
        dim.dim_param = "side"
    name = proto.graph.input[0].name
    with pytest.raises(ModelError) as caught:
        Canonicalize().apply(ir.from_proto(proto))
    assert caught.value.message.startswith(f"input `{name}` has unknown dimensions")
    assert caught.value.message.endswith("; the number of tokens would be a guess")
    assert caught.value.hint == f"declare its shape: --input {name}:1x3x224x224"


@pytest.mark.parametrize(
    ("inputs", "message", "hint"),
    [
        (
            {"y": (1, 3, 20, 20)},
            "the model has no input `y`; it has x",
            "name an input of the model in --input NAME:1x3x224x224",
        ),
        (
            {"x": (1, 3, 24, 24)},
            "input `x` is [batch, 3, 20, 20] in the file, declared as [1, 3, 24, 24]",
            "export the model with dynamic axes, or declare the shape it was exported with",
        ),
        (
            {"x": (3, 20, 20)},
            "input `x` is [batch, 3, 20, 20] in the file, declared as [3, 20, 20]",
            "export the model with dynamic axes, or declare the shape it was exported with",
        ),
    ],
)
def test_a_declared_shape_must_fit(inputs: dict[str, tuple[int, ...]], message: str, hint: str) -> None:
    with pytest.raises(ModelError) as caught:
        Canonicalize(inputs=inputs).apply(load(exported("excite")))
    assert (caught.value.message, caught.value.hint) == (message, hint)


CUTS = {
    "no such block": (
        [(9, 3, "random")],
        "block 9 has no cut point; the model has 3 blocks",
        "`edgeprune inspect` lists the cut points",
    ),
    "no class token": (
        [(0, 3, "cls-topk")],
        "the strategy cls-topk refuses block 0: no-class-token: the model has no class token",
        "`edgeprune strategies` says when each strategy refuses",
    ),
    "too few for a merge": (
        [(0, 3, "tome")],
        "tome keeps 12 to 25 patch tokens in block 0, not 3",
        "`edgeprune plan` decides counts that the strategy can keep",
    ),
    "more than there are": (
        [(0, 26, "random")],
        "random keeps 1 to 25 patch tokens in block 0, not 26",
        "`edgeprune plan` decides counts that the strategy can keep",
    ),
    "more than are left": (
        [(0, 10, "random"), (1, 11, "random")],
        "random keeps 1 to 10 patch tokens in block 1, not 11",
        "`edgeprune plan` decides counts that the strategy can keep",
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_that_cannot_be_made_is_an_error_of_the_plan(name: str) -> None:
    cuts, message, hint = CUTS[name]
    asked = tuple(TokenCut(block=b, keep=k, strategy=StrategySpec(name=s)) for b, k, s in cuts)
    with pytest.raises(PlanError) as caught:
        ReduceTokens(asked).apply(canonical(PLAIN, 1))
    assert (caught.value.message, caught.value.hint) == (message, hint)


TAILS = {
    "no prefix": (PLAIN, "not-applicable", "the model has no prefix tokens that a head could read alone", ()),
    "mean": (
        Spelling(head="mean"),
        "patch-tokens-in-output",
        "the head reads patch tokens",
        ("/blocks.2/Add_output_0",),
    ),
    "pool": (
        Spelling(head="pool"),
        "patch-tokens-in-output",
        "the head reads patch tokens",
        ("/blocks.2/Add_output_0",),
    ),
    "tokens": (
        Spelling(head="tokens"),
        "patch-tokens-in-output",
        "a graph output holds patch tokens",
        ("/blocks.2/Add_output_0",),
    ),
    "grid": (
        Spelling(head="grid"),
        "patch-tokens-in-output",
        "the head reads patch tokens",
        ("/blocks.2/Add_output_0",),
    ),
}


@pytest.mark.parametrize("name", TAILS)
def test_a_tail_that_is_needed_stays(name: str) -> None:
    spelling, code, reason, at = TAILS[name]
    model = canonical(spelling, 1)
    (refusal,) = EliminateTail().apply(model).refusals
    assert (refusal.code.value, refusal.reason, refusal.at) == (code, reason, at)


def test_tokens_inside_a_branch_are_refused() -> None:
    """A branch of an If reads the stream without naming it among its inputs."""
    model = canonical(PLAIN, 1)
    stream = recognize(model).blocks[1].cut
    assert stream is not None
    users = list(stream.uses())
    doubled = ir.node("Add", [stream, stream], name="inside")
    doubled.outputs[0].name, doubled.outputs[0].type, doubled.outputs[0].shape = "inside", stream.type, stream.shape
    other = ir.node("Identity", [stream], name="else")
    other.outputs[0].name, other.outputs[0].type, other.outputs[0].shape = "else", stream.type, stream.shape
    condition = ir.Value(name="condition", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
    model.graph.inputs.append(condition)
    branches = {
        "then_branch": ir.Graph([], [doubled.outputs[0]], nodes=[doubled], name="then"),
        "else_branch": ir.Graph([], [other.outputs[0]], nodes=[other], name="other"),
    }
    node = ir.node("If", [condition], branches, name="branch")
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "chosen", stream.type, stream.shape
    model.graph.insert_after(stream.producer(), node)
    for use in users:
        use.node.replace_input_with(use.idx, node.outputs[0])
    assert said(recognize(model)) == [("no-rule", "tokens are read inside a subgraph (If node)", "branch")]


def test_the_sentences_are_not_about_one_batch() -> None:
    """The numbers in a sentence are those of the batch that was declared."""
    assert said(recognize(model_of("windows", batch=2)))[0][1].endswith("to [2, 5, 5, 24] (Reshape node)")
    assert np.prod(WIDTH) == WIDTH
