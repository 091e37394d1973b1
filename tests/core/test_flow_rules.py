"""Each rule of the flow against numpy: a graph whose tokens got fewer gives the rows of the tokens that stayed.

Every graph runs at batch 2 with other tokens for each sample, and at batch 1, so that labels, literals and companions
are proved by numbers, not by a second opinion on what they should be.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.flow import KEPT, Graph, P, T, flow_of, graph, ints, label_of, outputs

from edgeprune.core.flow.call import Companion, Literal
from edgeprune.core.flow.labels import Label, Segment

RNG = np.random.default_rng(0)
LAST = 2**63 - 1


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


ROWWISE: dict[str, Callable[[str], Graph]] = {
    "elementwise chain": lambda b: graph("a = Tanh(x) c = Mul(a, x) y = Add(c, c)", b + "TD"),
    "scalar": lambda b: graph("y = Div(x, c)", b + "TD", c=np.asarray(3, np.float32)),
    "per channel": lambda b: graph("y = Add(x, c)", b + "TD", c=real(12)),
    "position table": lambda b: graph("y = Add(x, c)", b + "TD", c=real(T, 12)),
    "position table with batch 1": lambda b: graph("y = Add(c, x)", b + "TD", c=real(1, T, 12)),
    "number per token": lambda b: graph("y = Mul(x, c)", b + "TD", c=real(T, 1)),
    "table twice": lambda b: graph("a = Add(x, c) y = Mul(a, c)", b + "TD", c=real(T, 12)),
    "table at two ranks": lambda b: graph(
        "a = Mul(x, c) u = Unsqueeze(a, one) v = Mul(u, c) y = Squeeze(v, one)", b + "HTE", c=real(T, 4), one=ints(0)
    ),
    "another input": lambda b: graph("y = Sub(x, z)", b + "TD", z=((2,) if b else ()) + (T, 12)),
    "another input without batch": lambda b: graph("y = Sub(x, z)", b + "TD", z=(T, 12)),
    "bias on both axes": lambda b: graph("y = Add(x, c)", b + "HTT", c=real(3, T, T)),
    "bias of all heads": lambda b: graph("y = Add(x, c)", b + "HTT", c=real(1, T, T)),
    "mask of keys": lambda b: graph("y = Where(m, x, c)", b + "HTT", m=np.arange(T) % 2 == 0, c=np.float32([-9])),
    "mask of both": lambda b: graph("y = Where(m, x, c)", b + "HTT", m=np.tri(T) > 0, c=np.float32([-9])),
    "condition from an input": lambda b: graph(
        "m = Greater(z, c) y = Where(m, x, c)", b + "HTT", z=((2, 1) if b else (1,)) + (1, T), c=np.float32([0])
    ),
    "late full length": lambda b: graph("e = Expand(c, s) y = Add(x, e)", b + "HTT", c=real(1, T), s=ints(T, T)),
    "swap": lambda b: graph("y = Transpose<perm=[1,0,2]>(x)", (b or "1") + "TD"),
    "reverse": lambda b: graph("y = Transpose(x)", b + "TD"),
    "heads": lambda b: graph(
        "r = Reshape(x, s) y = Transpose<perm=[0,2,1,3]>(r)", (b or "1") + "TD", s=ints(2 if b else 1, T, 3, 4)
    ),
    "heads with zeros and minus one": lambda b: graph("y = Reshape(x, s)", (b or "1") + "TD", s=ints(0, 0, -1, 4)),
    "heads joined": lambda b: graph(
        "t = Transpose<perm=[0,2,1,3]>(x) y = Reshape(t, s)", (b or "1") + "HTE", s=ints(0, T, 12)
    ),
    "literal first": lambda b: graph("y = Reshape(x, s)", (b or "1") + "TD", s=ints(-1, T, 12)),
    "tokens before batch": lambda b: graph(
        "t = Transpose<perm=[1,0,2]>(x) r = Reshape(t, s) g = MatMul(r, w) y = Reshape(g, u)",
        (b or "1") + "TD",
        s=ints(-1, 12),
        w=real(12, 5),
        u=ints(T, -1, 5),
    ),
    "batch with heads": lambda b: graph("y = Reshape(x, s)", (b or "1") + "HTE", s=ints(-1, T, 4)),
    "matrix": lambda b: graph(
        "f = Flatten<axis=2>(x) g = Gemm<transB=1>(f, w, c) y = Reshape(g, s)",
        (b or "1") + "TD",
        w=real(5, 12),
        c=real(5),
        s=ints(-1, T, 5),
    ),
    "one more axis": lambda b: graph("u = Unsqueeze(x, a) y = Squeeze(u, a)", b + "TD", a=ints(-2)),
    "squeeze all": lambda b: graph("y = Squeeze(x)", b + "1TD"),
    "prefix": lambda b: graph("y = Slice(x, s, e, a)", b + "TD", s=ints(0), e=ints(P), a=ints(-2)),
    "part of the prefix": lambda b: graph("y = Slice(x, s, e, a)", b + "TD", s=ints(1), e=ints(P), a=ints(-2)),
    "rest": lambda b: graph("y = Slice(x, s, e, a)", b + "TD", s=ints(P), e=ints(LAST), a=ints(-2)),
    "rest by number": lambda b: graph("y = Slice(x, s, e, a)", b + "TD", s=ints(P), e=ints(T), a=ints(-2)),
    "rest from the end": lambda b: graph("y = Slice(x, s, e, a)", b + "TD", s=ints(P - T), e=ints(T), a=ints(-2)),
    "prefix from the end": lambda b: graph("y = Slice(x, s, e, a)", b + "TD", s=ints(-T), e=ints(P - T), a=ints(-2)),
    "class token and rest": lambda b: graph("y = Slice(x, s, e, a)", b + "TD", s=ints(1), e=ints(T), a=ints(-2)),
    "slice of both": lambda b: graph("y = Slice(x, s, e, a)", b + "TD", s=ints(P, 3), e=ints(LAST, -2), a=ints(-2, -1)),
    "slice in int32": lambda b: graph(
        "y = Slice(x, s, e, a)", b + "TD", s=np.int32([P]), e=np.int32([T]), a=np.int32([-2])
    ),
    "channels reversed": lambda b: graph(
        "y = Slice(x, s, e, a, t)", b + "TD", s=ints(-1), e=ints(-LAST), a=ints(-1), t=ints(-1)
    ),
    "split off the prefix": lambda b: graph(
        "p, r = Split<axis=-2>(x, s) m = ReduceMax<keepdims=0>(p) y = Add(r, m)", b + "TD", s=ints(P, T - P)
    ),
    "split channels": lambda b: graph("p, y = Split<axis=-1>(x, s)", b + "TD", s=ints(5, 7)),
    "split channels evenly": lambda b: graph("p, y, q = Split<axis=-1, num_outputs=3>(x)", b + "TD"),
    "first token": lambda b: graph("y = Gather<axis=-2>(x, i)", b + "TD", i=np.asarray(0)),
    "first token from the end": lambda b: graph("y = Gather<axis=-2>(x, i)", b + "TD", i=np.asarray(-T)),
    "two prefix tokens": lambda b: graph("y = Gather<axis=-2>(x, i)", b + "TD", i=ints(1, -T)),
    "a token put behind": lambda b: graph(
        "j = Concat<axis=1>(x, c) y = Gather<axis=1>(j, i)",
        (b or "1") + "TD",
        c=real(2 if b else 1, 1, 12),
        i=np.asarray(-1),
    ),
    "channels by index": lambda b: graph("y = Gather<axis=-1>(x, i)", b + "TD", i=ints(3, 3, 0)),
    "table look-up": lambda b: graph("i = Cast<to=7>(x) y = Gather(c, i)", b + "T", c=real(9, 5)),
    "elements along channels": lambda b: graph(
        "y = GatherElements<axis=-1>(x, i)", "1TD" if not b else "BTD", i=RNG.integers(0, 12, (2 if b else 1, T, 5))
    ),
    "rotate patches": lambda b: graph(
        "p = Slice(x, z, s, a) r = Slice(x, s, e, a) c = Mul(r, cos) y = Concat<axis=-2>(p, c)",
        b + "TD",
        z=ints(0),
        s=ints(P),
        e=ints(LAST),
        a=ints(-2),
        cos=real(T - P, 12),
    ),
    "prefix behind the patches": lambda b: graph(
        "p = Slice(x, z, s, a) r = Slice(x, s, e, a) j = Concat<axis=-2>(r, p) y = Slice(j, t, e, a)",
        b + "TD",
        z=ints(0),
        s=ints(P),
        e=ints(LAST),
        a=ints(-2),
        t=ints(T - P),
    ),
    "picked behind the patches": lambda b: graph(
        "p = Slice(x, z, s, a) r = Slice(x, s, e, a) j = Concat<axis=-2>(r, p) y = Gather<axis=-2>(j, t)",
        b + "TD",
        z=ints(0),
        s=ints(P),
        e=ints(LAST),
        a=ints(-2),
        t=ints(T - 1, T - P),
    ),
    "a late class token": lambda b: graph(
        "j = Concat<axis=1>(c, x) y = Add(j, p)", (b or "1") + "TD", c=real(2 if b else 1, 1, 12), p=real(T + 1, 12)
    ),
    "beside a table": lambda b: graph("y = Concat<axis=-1>(x, c)", (b or "1") + "TD", c=real(2 if b else 1, T, 4)),
    "beside another input": lambda b: graph("y = Concat<axis=-1>(z, x)", (b or "1") + "TD", z=(2 if b else 1, T, 4)),
    "expand a single": lambda b: graph("y = Expand(x, s)", b + "T1", s=ints(T, 5)),
    "expand by ones": lambda b: graph("y = Expand(x, s)", b + "T1", s=ints(1, 5)),
    "expand in front": lambda b: graph("y = Expand(x, s)", (b or "1") + "T1", s=ints(3, 1, T, 5)),
    "tile channels": lambda b: graph("y = Tile(x, s)", b + "TD", s=ints(*([1] * (1 + bool(b))), 3)),
    "weights": lambda b: graph("y = MatMul(x, w)", b + "TD", w=real(12, 5)),
    "weights from the left": lambda b: (
        graph("t = Transpose(x) y = MatMul(w, t)", b + "TD", w=real(5, 12))
        if not b
        else graph("t = Transpose<perm=[0,2,1]>(x) y = MatMul(w, t)", "BTD", w=real(5, 12))
    ),
    "queries and keys": lambda b: graph("k = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, k)", (b or "1") + "HTE"),
    "a product for each token": lambda b: graph("y = MatMul(x, w)", b + "THE", w=real(T, 4, 5)),
    "equation with weights": lambda b: graph(
        'y = Einsum<equation="btd,de->bte">(x, w)', (b or "1") + "TD", w=real(12, 5)
    ),
    "equation of scores": lambda b: graph('y = Einsum<equation="bhqd,bhkd->bhqk">(x, x)', (b or "1") + "HTE"),
    "layer normalisation": lambda b: graph("y = LayerNormalization(x, g, c)", b + "TD", g=real(12), c=real(12)),
    "layer normalisation in nine": lambda b: graph(
        "m = ReduceMean(x, a) d = Sub(x, m) s = Mul(d, d) v = ReduceMean(s, a) r = Sqrt(v) y = Div(d, r)",
        b + "TD",
        a=ints(-1),
    ),
    "softmax over channels": lambda b: graph("y = Softmax<axis=-1>(x)", b + "TD"),
    "length one": lambda b: graph("y = LpNormalization<axis=-1>(x)", b + "TD"),
    "batch normalisation of channels": lambda b: graph(
        "y = BatchNormalization(x, g, c, m, v)",
        (b or "1") + "ET",
        g=real(4),
        c=real(4),
        m=real(4),
        v=np.abs(real(4)),
    ),
    "pointwise convolution": lambda b: graph("y = Conv(x, w)", (b or "1") + "ET", w=real(5, 4, 1)),
    "running sum of channels": lambda b: graph("y = CumSum(x, a)", b + "TD", a=np.asarray(-1)),
    "best channels": lambda b: graph("y, i = TopK<axis=-1>(x, k)", b + "TD", k=ints(3)),
    "best channel": lambda b: graph("i = ArgMax<axis=-1, keepdims=0>(x) y = Cast<to=1>(i)", b + "TD"),
    "resize of what is no token": lambda b: graph(
        "y = Resize(x, , , s)", (b or "1") + "THE", s=ints(2 if b else 1, T, 6, 8)
    ),
    "mean of channels": lambda b: graph("y = ReduceMean<keepdims=0>(x, a)", b + "TD", a=ints(-1)),
}


@pytest.mark.parametrize("batch", ["", "B"], ids=["batch 1", "batch 2"])
@pytest.mark.parametrize("name", ROWWISE)
def test_fewer_tokens_give_the_rows_that_stayed(name: str, batch: str) -> None:
    found, wanted, label = outputs(ROWWISE[name](batch))
    assert label is None or not label.pooled
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)  # the same sums, at most in another order
    assert found.size


def attended(x: np.ndarray) -> np.ndarray:
    """Softmax attention of rows to each other."""
    scores = x @ x.T
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ x


ATTENTION = {
    "product": "k = Transpose<perm=[0,2,1]>(x) s = MatMul(x, k) p = Softmax<axis=-1>(s) y = MatMul(p, x)",
    "equation": 's = Einsum<equation="bqd,bkd->bqk">(x, x) p = Softmax<axis=-1>(s) '
    'y = Einsum<equation="bqk,bkd->bqd">(p, x)',
    "transposed": "k = Transpose<perm=[0,2,1]>(x) s = MatMul(x, k) p = Softmax<axis=-1>(s) "
    "q = Transpose<perm=[0,2,1]>(p) z = MatMul(k, q) y = Transpose<perm=[0,2,1]>(z)",
    "guarded": "k = Transpose<perm=[0,2,1]>(x) s = MatMul(x, k) p = Softmax<axis=-1>(s) n = IsNaN(p) "
    "g = Where(n, o, p) y = MatMul(g, x)",
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_runs_over_the_tokens_that_stayed(name: str) -> None:
    item = graph(ATTENTION[name], "BTE", o=np.zeros((), np.float32))
    found, _, label = outputs(item)
    x = item.feeds()["x"]
    wanted = np.stack([attended(x[b, KEPT[b]]) for b in range(2)])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)  # fp32 softmax in another order
    assert label is not None
    assert label.token_axes == (1,)


def test_an_attention_pool_needs_no_token_as_query() -> None:
    item = graph(
        "t = Transpose<perm=[0,2,1]>(x) s = MatMul(q, t) p = Softmax<axis=-1>(s) y = MatMul(p, x)", "BTE", q=real(1, 4)
    )
    found, _, label = outputs(item)
    x, q = item.feeds()["x"], item.constants["q"]
    for b in range(2):
        rows = x[b, KEPT[b]]
        weights = np.exp(q @ rows.T)
        np.testing.assert_allclose(found[b], weights / weights.sum() @ rows, rtol=1e-4, atol=1e-5)  # as above
    assert label is None


def test_a_pool_is_a_statistic_of_what_stayed() -> None:
    item = graph("p = Slice(x, s, e, a) y = ReduceMean<keepdims=0>(p, a)", "BTD", s=ints(P), e=ints(LAST), a=ints(1))
    found, _, label = outputs(item)
    x = item.feeds()["x"]
    wanted = np.stack([x[b, KEPT[b, P:]].mean(0) for b in range(2)])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)  # a mean of two rows
    assert label == Label((label.axes[0], (12,)), pooled=True)


def test_a_statistic_stays_one_through_any_operator() -> None:
    label = label_of(graph("m = ReduceMean<keepdims=0>(x, a) t = Trilu(m) y = Neg(t)", "BTD", a=ints(1)))
    assert label is not None
    assert label.pooled


def test_segments_join_where_they_are_neighbours() -> None:
    body = "p = Slice(x, z, s, a) r = Slice(x, s, e, a) {} "
    parts = {"z": ints(0), "s": ints(P), "e": ints(LAST), "a": ints(1)}
    joined = label_of(graph(body.format("y = Concat<axis=1>(p, r)"), **parts))
    swapped = label_of(graph(body.format("y = Concat<axis=1>(r, p)"), **parts))
    assert joined is not None
    assert swapped is not None
    assert joined.tokens_at(1).segments == (Segment(0, T),)
    assert swapped.tokens_at(1).segments == (Segment(P, T), Segment(0, P))


def test_literals_are_asked_for_only_where_they_name_the_old_length() -> None:
    flow, model = flow_of(graph("r = Reshape(x, s) y = Reshape(r, u)", s=ints(0, 0, 3, 4), u=ints(2, T, 12)))
    edits = [edit for edits in flow.edits.values() for edit in edits]
    assert [type(e) for e in edits] == [Literal, Literal]
    assert [e.values.tolist() for e in edits] == [[2, 4, 3, 4], [2, 4, 12]]
    flow, _ = flow_of(graph("y = Reshape(x, s)", s=ints(2, T, 12)), kept=T)
    assert not flow.edits
    assert len(model.graph) == 2


def test_a_companion_is_found_by_alignment_not_by_size() -> None:
    flow, _ = flow_of(graph("y = Add(x, c)", "BTG", c=real(T), G=T))
    assert not flow.edits
    flow, _ = flow_of(graph("y = Add(x, c)", "BTG", c=real(T, 1), G=T))
    assert [type(e) for edits in flow.edits.values() for e in edits] == [Companion]


def test_an_operator_without_tokens_needs_no_rule() -> None:
    flow, _ = flow_of(graph("g = Gather<axis=1>(x, i) t = Trilu(g) y = Neg(t)", i=np.asarray(0)))
    assert not flow.refusals
    assert len(flow.labels) == 1
