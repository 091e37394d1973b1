"""Small transformers written node by node, dense or with tokens removed: hand-made surgery to judge the compiler's by.

Every Reshape names the number of tokens that the stream has at that point, so that a reduced graph is simply the same
code after another count. Weights depend on the seed and the spelling only: a dense and a reduced graph share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is done between attention and MLP of one block.

    `index` [B,K'] or [1,K'] into the stream, prefix first. `matrix` [B,K',K] averages. `sized`: log(size) in later
    attention, sizes from the matrix. `used`: the index that the graph really gathers with, to build a wrong graph.
    """

    block: int
    index: np.ndarray
    matrix: np.ndarray | None = None
    sized: bool = False
    used: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """Which transformer.

    `talking`: heads are mixed, with a bias, after the softmax. `bias`: relative position bias, const [1,H,T,T].
    `masked_rows`: the model itself masks some query rows at the lowest float. `merged_heads`: attention at rank 3.
    """

    patches: int = 16
    prefix: int = 1
    width: int = 12
    heads: int = 2
    blocks: int = 3
    batch: int = 1
    head: str = "class"  # or "mean", "tokens"
    operator: bool = False  # the Attention operator of opset 23
    talking: bool = False
    bias: bool = False
    masked_rows: bool = False
    merged_heads: bool = False
    restore: bool = False

    @property
    def tokens(self) -> int:
        return self.patches + self.prefix


@dataclass
class Writer:
    """Appends nodes; `w` makes a weight that depends on its name alone."""

    spelling: Spelling
    graph: ir.Graph
    gain: float = 1.0
    named: set[str] = field(default_factory=set)

    def __call__(self, op: str, *inputs: ir.Value, name: str, **attributes: object) -> ir.Value:
        node = ir.node(op, inputs, attributes or None, name=name)  # type: ignore[arg-type]
        node.outputs[0].name = name
        self.graph.append(node)
        return node.outputs[0]

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        self.graph.register_initializer(value)
        return value

    def w(self, name: str, *shape: int) -> ir.Value:
        rng = np.random.default_rng(sum(ord(c) * (i + 1) for i, c in enumerate(name)))
        scale = self.gain / np.sqrt(shape[0] if len(shape) > 1 else 4)
        return self.constant(name, (rng.standard_normal(shape) * scale).astype(np.float32))

    def ints(self, name: str, *values: int) -> ir.Value:
        return self.constant(name, np.array(values, dtype=np.int64))


@dataclass
class Stream:
    """Where the token stream stands: its value, its length, what follows it."""

    x: ir.Value
    tokens: int
    log_size: ir.Value | None = None
    sizes: np.ndarray | None = None
    companion: np.ndarray | None = None  # positions of the stream in the dense sequence, for what is aligned with it


def build(spelling: Spelling, cuts: Sequence[Cut] = ()) -> ir.Model:
    """The graph, static: input `x` [B, tokens, width], output `y`; block b has its residual Add at `blocks.b.mid`."""
    s = spelling
    x = ir.Value(name="x", shape=ir.Shape([s.batch, s.tokens, s.width]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 23 if s.operator else 17}, name="tiny")
    write = Writer(s, graph)
    start = np.tile(np.arange(s.tokens), (s.batch, 1))
    stream = Stream(write("Add", x, write.w("pos", 1, s.tokens, s.width), name="embed"), s.tokens, companion=start)
    seen = None
    for block in range(s.blocks):
        name = f"blocks.{block}"
        mid = write("Add", stream.x, _attention(write, stream, name), name=f"{name}.mid")
        stream.x = mid
        for cut in (cut for cut in cuts if cut.block == block):
            seen = mid if seen is None else seen
            _cut(write, stream, cut)
        stream.x = write("Add", stream.x, _mlp(write, stream.x, name), name=f"{name}.out")
    if s.restore and seen is not None:
        stream.x = _restore(write, stream, seen, cuts[0])
    y = _head(write, stream)
    y.type, y.name = ir.TensorType(ir.DataType.FLOAT), "y"
    graph.outputs.append(y)
    return ir.Model(graph, ir_version=10)


def _norm(write: Writer, x: ir.Value, name: str) -> ir.Value:
    width = write.spelling.width
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    scale, shift = write.constant(f"{name}.scale", ones), write.constant(f"{name}.shift", zeros)
    return write("LayerNormalization", x, scale, shift, name=name)


def _mlp(write: Writer, x: ir.Value, name: str) -> ir.Value:
    width = write.spelling.width
    up = write("MatMul", _norm(write, x, f"{name}.norm2"), write.w(f"{name}.up", width, 2 * width), name=f"{name}.mlp1")
    return write(
        "MatMul", write("Tanh", up, name=f"{name}.act"), write.w(f"{name}.down", 2 * width, width), name=f"{name}.mlp2"
    )


def _heads(write: Writer, x: ir.Value, tokens: int, name: str) -> ir.Value:
    s = write.spelling
    product = write("MatMul", x, write.w(f"{name}.w", s.width, s.width), name=f"{name}.flat")
    split = write.ints(f"{name}.split", s.batch, tokens, s.heads, s.width // s.heads)
    heads = write("Transpose", write("Reshape", product, split, name=f"{name}.r"), name=f"{name}.h", perm=[0, 2, 1, 3])
    if not s.merged_heads:
        return heads
    shape = write.ints(f"{name}.merge", s.batch * s.heads, tokens, s.width // s.heads)
    return write("Reshape", heads, shape, name=f"{name}.m")


def _attention(write: Writer, stream: Stream, name: str) -> ir.Value:
    s, tokens = write.spelling, stream.tokens
    normed = _norm(write, stream.x, f"{name}.norm1")
    q, k, v = (_heads(write, normed, tokens, f"{name}.{role}") for role in "qkv")
    if s.operator:
        extra = () if stream.log_size is None else (_wide(write, stream, name),)
        context = write("Attention", q, k, v, *extra, name=f"{name}.attention")
    else:
        probs = _probabilities(write, stream, q, k, name)
        context = write("MatMul", probs, v, name=f"{name}.context")
    if s.merged_heads:
        split = write.ints(f"{name}.unmerge", s.batch, s.heads, tokens, s.width // s.heads)
        context = write("Reshape", context, split, name=f"{name}.u")
    rows = write("Transpose", context, name=f"{name}.ct", perm=[0, 2, 1, 3])
    joined = write("Reshape", rows, write.ints(f"{name}.join", s.batch, tokens, s.width), name=f"{name}.joined")
    return write("MatMul", joined, write.w(f"{name}.proj", s.width, s.width), name=f"{name}.projected")


def _wide(write: Writer, stream: Stream, name: str) -> ir.Value:
    assert stream.log_size is not None
    shape = write.ints(f"{name}.wide", write.spelling.batch, 1, stream.tokens, stream.tokens)
    return write("Expand", stream.log_size, shape, name=f"{name}.logsize")


def _probabilities(write: Writer, stream: Stream, q: ir.Value, k: ir.Value, name: str) -> ir.Value:
    s = write.spelling
    perm = [0, 2, 1] if s.merged_heads else [0, 1, 3, 2]
    scores = write("MatMul", q, write("Transpose", k, name=f"{name}.kt", perm=perm), name=f"{name}.scores")
    if stream.log_size is not None:
        scores = write("Add", scores, stream.log_size, name=f"{name}.sized")
    for kind in ("bias", "rows"):
        companion = _companion(s, kind, stream.companion)
        if companion is not None:
            aligned = write.constant(f"{name}.{kind}.{stream.tokens}", companion)
            scores = write("Add", scores, aligned, name=f"{name}.{kind}")
    probs = write("Softmax", scores, name=f"{name}.probs", axis=-1)
    if not s.talking:
        return probs
    last = write("Transpose", probs, name=f"{name}.t1", perm=[0, 2, 3, 1])
    mixed = write("MatMul", last, write.w(f"{name}.mix", s.heads, s.heads), name=f"{name}.mixed")
    biased = write(
        "Add", mixed, write.constant(f"{name}.mixbias", np.full(s.heads, 0.05, np.float32)), name=f"{name}.b"
    )
    return write("Transpose", biased, name=f"{name}.t2", perm=[0, 3, 1, 2])


def _companion(s: Spelling, kind: str, positions: np.ndarray | None) -> np.ndarray | None:
    """Something aligned with queries and keys, for the tokens that are left."""
    assert positions is not None
    if kind == "bias" and s.bias:
        whole = np.random.default_rng(7).standard_normal((1, s.heads, s.tokens, s.tokens)).astype(np.float32)
    elif kind == "rows" and s.masked_rows:
        whole = np.zeros((1, 1, s.tokens, s.tokens), dtype=np.float32)
        whole[..., s.tokens // 2 :, :] = np.finfo(np.float32).min
    else:
        return None
    return np.concatenate([whole[:, :, p][:, :, :, p] for p in positions])


def _cut(write: Writer, stream: Stream, cut: Cut) -> None:
    s, name = write.spelling, f"edgeprune/cut/{cut.block}"
    index = write.constant(f"{name}/const", cut.index.astype(np.int64))
    index = write("Expand", index, write.ints(f"{name}/shape", s.batch, cut.index.shape[1]), name=f"{name}/index")
    if cut.used is not None:
        index = write.constant(f"{name}/used", np.tile(cut.used.astype(np.int64), (s.batch // len(cut.used), 1)))
    rows = np.broadcast_to(cut.index, (s.batch, cut.index.shape[1]))
    if cut.matrix is None:
        deeper = write("Unsqueeze", index, write.ints(f"{name}/last", -1), name=f"{name}/deeper")
        stream.x = write("GatherND", stream.x, deeper, name=f"{name}/rows", batch_dims=1)
        sizes = None if stream.sizes is None else np.take_along_axis(stream.sizes, rows, 1)
    else:
        matrix = write(
            "Identity", write.constant(f"{name}/means", cut.matrix.astype(np.float32)), name=f"{name}/matrix"
        )
        stream.x = write("MatMul", matrix, stream.x, name=f"{name}/rows")
        before = np.ones((s.batch, stream.tokens)) if stream.sizes is None else stream.sizes
        sizes = np.einsum("bkn,bn->bk", cut.matrix > 0, before) if cut.sized or stream.sizes is not None else None
    if sizes is not None:
        size = write("Identity", write.constant(f"{name}/sizes", sizes.astype(np.float32)), name=f"{name}/size")
        log = write("Log", size, name=f"{name}/log")
        axes = (1,) if s.merged_heads else (1, 2)
        stream.log_size = write("Unsqueeze", log, write.ints(f"{name}/axes", *axes), name=f"{name}/logsize")
    stream.sizes = sizes
    stream.tokens = cut.index.shape[1]
    assert stream.companion is not None
    stream.companion = np.take_along_axis(stream.companion, rows, 1)


def _restore(write: Writer, stream: Stream, seen: ir.Value, cut: Cut) -> ir.Value:
    """Put the rows back where they came from; removed tokens keep what they were at the cut."""
    s = write.spelling
    rows = np.broadcast_to(cut.index, (s.batch, cut.index.shape[1]))
    target = np.stack([np.broadcast_to(np.arange(s.batch)[:, None], rows.shape), rows], axis=-1).astype(np.int64)
    return write("ScatterND", seen, write.constant("restore.at", target), stream.x, name="edgeprune/restore/last")


def _head(write: Writer, stream: Stream) -> ir.Value:
    s = write.spelling
    x = _norm(write, stream.x, "norm")
    if s.head == "tokens":
        return write("MatMul", x, write.w("head", s.width, 7), name="y")
    if s.head == "mean":
        x = write("ReduceMean", x, name="pool", axes=[1], keepdims=0)
    else:
        x = write("Gather", x, write.constant("first", np.array(0, np.int64)), name="first_token", axis=1)
    return write("MatMul", x, write.w("head", s.width, 7), name="y")
