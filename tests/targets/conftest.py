"""Small transformers made on the spot: the targets' tests need graphs, not trained models."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest


class Draft:
    """A graph under construction. Weights are reproducible; zero weights cost no memory, whatever their shape."""

    def __init__(self, *, zeros: bool = False) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self._random = np.random.default_rng(0)
        self._zeros = zeros

    def weight(self, *shape: int) -> ir.Value:
        if self._zeros:
            return self.constant(np.broadcast_to(np.float32(0), shape))
        return self.constant(self._random.normal(0, 0.6 / np.sqrt(max(1, shape[0])), shape).astype(np.float32))

    def constant(self, array: Any, dtype: Any = None) -> ir.Value:
        value = ir.val(f"constant_{len(self.initializers)}", const_value=ir.tensor(np.asarray(array, dtype)))
        self.initializers.append(value)
        return value

    def op(
        self,
        op_type: str,
        *inputs: ir.Value,
        name: str = "",
        out: str | None = None,
        outputs: int = 1,
        **attributes: Any,
    ) -> Any:
        number = len(self.nodes)
        name = name or f"{op_type.lower()}_{number}"
        names = [out or f"{name}:{i}" for i in range(outputs)]
        made = [ir.val(each) for each in names]
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=made, name=name))
        return made[0] if outputs == 1 else made

    def linear(self, x: ir.Value, columns_in: int, columns_out: int) -> ir.Value:
        return self.op("Add", self.op("MatMul", x, self.weight(columns_in, columns_out)), self.weight(columns_out))

    def norm(self, x: ir.Value, width: int) -> ir.Value:
        return self.op("LayerNormalization", x, self.weight(width), self.weight(width), axis=-1, epsilon=1e-6)

    def model(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], opset: int = 17) -> ir.Model:
        from onnx_ir.passes.common import ShapeInferencePass

        graph = ir.Graph(
            inputs, outputs, nodes=self.nodes, initializers=self.initializers, opset_imports={"": opset}, name="drafted"
        )
        model = ir.Model(graph, ir_version=8)
        ShapeInferencePass()(model)
        return model


def _heads(d: Draft, x: ir.Value, shape: tuple[int, ...], perm: tuple[int, ...] = (0, 2, 1, 3)) -> ir.Value:
    return d.op("Transpose", d.op("Reshape", x, d.constant(shape, np.int64)), perm=perm)


def encoder(
    *,
    blocks: int = 2,
    tokens: int = 17,
    width: int = 32,
    heads: int = 2,
    batch: int = 1,
    cut: str = "",
    zeros: bool = False,
) -> ir.Model:
    """Pre-norm encoder over [B, T, D] with class token first; `cut` is '', 'topk' or 'merge', after block 0."""
    d = Draft(zeros=zeros)
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[batch, tokens, width])
    stream, bias, size = x, None, width // heads
    rows = tokens
    for block in range(blocks):
        normed = d.norm(stream, width)
        shape = (batch, rows, heads, size)
        q = _heads(d, d.linear(normed, width, width), shape)
        k = _heads(d, d.linear(normed, width, width), shape, (0, 2, 3, 1))
        v = _heads(d, d.linear(normed, width, width), shape)
        q = d.op("Mul", q, d.constant(np.float32(size**-0.5)))
        logits = d.op("MatMul", q, k)
        if bias is not None:
            logits = d.op("Add", logits, bias, name=f"edgeprune/bias/{block}/add")
        mixed = d.op("MatMul", d.op("Softmax", logits, axis=-1), v)
        mixed = d.op("Reshape", d.op("Transpose", mixed, perm=(0, 2, 1, 3)), d.constant((batch, rows, width), np.int64))
        stream = d.op("Add", stream, d.linear(mixed, width, width))
        if cut and block == 0:
            kept = rows // 2
            scores = _class_row_scores(d, q, k, rows)
            stream, bias = (_topk if cut == "topk" else _merge)(d, stream, scores, kept, rows)
            rows = kept + 1
        inner = d.linear(d.norm(stream, width), width, 4 * width)
        half = d.op("Mul", inner, d.constant(np.float32(0.5)))
        erf = d.op("Erf", d.op("Div", inner, d.constant(np.float32(2**0.5))))
        gelu = d.op("Mul", half, d.op("Add", erf, d.constant(np.float32(1))))
        stream = d.op("Add", stream, d.linear(gelu, 4 * width, width))
    first = d.op("Gather", d.norm(stream, width), d.constant(0, np.int64), axis=1)
    y = d.op("Add", d.op("MatMul", first, d.weight(width, 10)), d.weight(10), out="y")
    return d.model([x], [y])


def _class_row_scores(d: Draft, q: ir.Value, k: ir.Value, rows: int) -> ir.Value:
    """Importance [B, T-1] from the class token's row of the softmax, beside the attention."""

    def ours(word: str) -> str:
        return f"edgeprune/cls-topk/0/{word}"

    def ints(*numbers: int) -> ir.Value:
        return d.constant(numbers, np.int64)

    row = d.op("Slice", q, ints(0), ints(1), ints(2), name=ours("query"))
    probs = d.op("Softmax", d.op("MatMul", row, k, name=ours("logits")), axis=-1, name=ours("softmax"))
    mean = d.op(
        "Squeeze", d.op("ReduceMean", probs, axes=[1], keepdims=0, name=ours("mean")), ints(1), name=ours("row")
    )
    return d.op("Slice", mean, ints(1), ints(rows), ints(1), name=ours("patches"))


def _chosen(d: Draft, scores: ir.Value, kept: int) -> ir.Value:
    _, best = d.op("TopK", scores, d.constant([kept], np.int64), outputs=2, axis=-1, name="edgeprune/cls-topk/0/topk")
    ascending, _ = d.op(
        "TopK", best, d.constant([kept], np.int64), outputs=2, axis=-1, largest=0, name="edgeprune/cls-topk/0/sort"
    )
    shifted = d.op("Add", ascending, d.constant(1, np.int64), name="edgeprune/cls-topk/0/shift")
    prefix = d.op(
        "Mul",
        d.op("Slice", shifted, *(d.constant([n], np.int64) for n in (0, 1, 1)), name="edgeprune/cls-topk/0/one"),
        d.constant(0, np.int64),
        name="edgeprune/cls-topk/0/zero",
    )
    return d.op("Concat", prefix, shifted, axis=1, name="edgeprune/cls-topk/0/index", out="edgeprune/cut/0/index")


def _topk(d: Draft, stream: ir.Value, scores: ir.Value, kept: int, _rows: int) -> tuple[ir.Value, None]:
    index = d.op("Unsqueeze", _chosen(d, scores, kept), d.constant([2], np.int64), name="edgeprune/cut/0/unsqueeze")
    return d.op("GatherND", stream, index, batch_dims=1, name="edgeprune/cut/0/gather"), None


def _merge(d: Draft, stream: ir.Value, scores: ir.Value, kept: int, rows: int) -> tuple[ir.Value, ir.Value]:
    """Keep the chosen rows and average a fixed few of the others into the first: enough of a merge to type and fuse."""
    one_hot = d.op(
        "OneHot",
        _chosen(d, scores, kept),
        d.constant([rows], np.int64),
        d.constant([0, 1], np.float32),
        axis=-1,
        name="edgeprune/merge/0/one-hot",
    )
    spread = np.zeros((1, kept + 1, rows), np.float32)
    spread[0, 1, -3:] = 1
    counts = d.op("Add", one_hot, d.constant(spread), name="edgeprune/merge/0/counts")
    size = d.op(
        "ReduceSum",
        counts,
        d.constant([2], np.int64),
        keepdims=0,
        name="edgeprune/merge/0/size",
        out="edgeprune/cut/0/size",
    )
    column = d.op("Unsqueeze", size, d.constant([2], np.int64), name="edgeprune/merge/0/column")
    matrix = d.op("Div", counts, column, name="edgeprune/merge/0/matrix", out="edgeprune/cut/0/matrix")
    log = d.op(
        "Unsqueeze",
        d.op("Log", size, name="edgeprune/merge/0/log"),
        d.constant([1, 2], np.int64),
        name="edgeprune/merge/0/bias",
    )
    return d.op("MatMul", matrix, stream, name="edgeprune/merge/0/stream"), log


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., ir.Model]:
    """`encoder`, see there."""
    return encoder


@pytest.fixture
def draft() -> Draft:
    """An empty graph to put nodes in."""
    return Draft()


@pytest.fixture
def run_onnx() -> Callable[..., list[np.ndarray]]:
    """Run a model in ONNX Runtime: (model, feeds) -> outputs."""
    return run


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.fixture
def rtx() -> None:
    """Skip where TensorRT-RTX is not installed."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip('TensorRT-RTX is not installed: pip install "edgeprune[rtx]"')


@pytest.fixture
def save(tmp_path: Path) -> Callable[[ir.Model], Path]:
    """Write a model to a file."""

    def to_file(model: ir.Model) -> Path:
        path = tmp_path / "model.onnx"
        ir.save(model, path)
        return path

    return to_file
