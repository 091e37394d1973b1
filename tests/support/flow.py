"""Small graphs as text, with tokens along one of their axes: what the flow says of them, and whether that is true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from edgeprune.core.flow.engine import Flow, run_flow
from edgeprune.core.flow.labels import Axis, Batch, Label, Resize, Segment, Tokens, axis_size, factor_size
from edgeprune_calibration.runner import Runner
from edgeprune_passes._cut import propagate, replace_input

T, P = 7, 2
KEPT = np.array([[0, 1, 3, 6], [0, 1, 2, 5]])
TOKENS = Tokens((Segment(0, T),))
PATCHES = Tokens((Segment(P, T),))
BATCH = 2


def spelled(letters: str, sizes: Mapping[str, int] | None = None) -> Label:
    """A label in letters: B batch, T tokens, P patch tokens, 1 a single, any other a plain axis (D 12, H 3, E 4)."""
    known = {"D": 12, "H": 3, "E": 4, **(sizes or {})}
    atoms: dict[str, Axis] = {"B": (Batch(BATCH),), "T": (TOKENS,), "P": (PATCHES,), "1": ()}
    return Label(tuple(atoms.get(letter) or (() if letter == "1" else (known[letter],)) for letter in letters))


@dataclass(frozen=True)
class Graph:
    """A body of nodes in ONNX text; its first input is `x`."""

    body: str
    label: Label
    constants: Mapping[str, np.ndarray]
    others: Mapping[str, tuple[int, ...]]
    opset: int = 18

    def model(self) -> ir.Model:
        """The graph with all shapes inferred."""
        shapes = {"x": self.label.shape, **self.others}
        inputs = ", ".join(f"float{list(shape)} {name}" for name, shape in shapes.items())
        text = f'<ir_version: 8, opset_import: ["": {self.opset}]> g ({inputs}) => (float[n] y) {{ {self.body} }}'
        proto = onnx.parser.parse_model(text)
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        for name, array in self.constants.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        for i, node in enumerate(proto.graph.node):
            node.name = node.name or f"{node.op_type}{i}"
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
        return ir.from_proto(inferred)

    def feeds(self, seed: int = 3) -> dict[str, np.ndarray]:
        """Random inputs."""
        rng = np.random.default_rng(seed)
        shapes = {"x": self.label.shape, **self.others}
        return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def graph(body: str, letters: str = "BTD", /, opset: int = 18, **extra: object) -> Graph:
    """A graph whose input `x` has the label in letters; arrays in `extra` are constants, tuples are further inputs."""
    arrays = {k: v for k, v in extra.items() if isinstance(v, np.ndarray)}
    shapes = {k: v for k, v in extra.items() if isinstance(v, tuple)}
    sizes = {k: v for k, v in extra.items() if isinstance(v, int)}
    return Graph(body, spelled(letters, sizes), arrays, shapes, opset)


def flow_of(item: Graph, *, kept: int = KEPT.shape[1], resize: Resize | None = None) -> tuple[Flow, ir.Model]:
    """The flow from `x`, and the graph that it ran through."""
    model = item.model()
    seeds = {model.graph.inputs[0]: item.label}
    return run_flow(list(model.graph), seeds, resize or Resize(T, kept, P)), model


def label_of(item: Graph, resize: Resize | None = None) -> Label | None:
    """Label of the output; None where nothing that moves reaches it."""
    flow, model = flow_of(item, resize=resize)
    assert not flow.refusals, next(iter(flow.refusals.values()))
    return flow.labels.get(model.graph.outputs[0])


def outputs(
    item: Graph, everyone: np.ndarray = KEPT, place: tuple[int, int] = (0, 0)
) -> tuple[np.ndarray, np.ndarray, Label | None]:
    """What the shortened graph gives, what it ought to give, and the label that says so.

    The input is shortened outside of the graph; everything else must follow. `everyone` says what is kept of each
    sample, `place` where the prefix tokens stand before and after.
    """
    feeds, model = item.feeds(), item.model()
    resize = Resize(T, everyone.shape[1], P, *place)
    label = label_of(item, resize)
    dense = Runner(model, threads=1, optimise=False).run(feeds)["y"]
    x = model.graph.inputs[0]
    has_batch = bool(item.label.axes_of(Batch))
    kept = everyone if has_batch else everyone[:1]
    index = ir.Value(name="index", shape=ir.Shape(kept.shape), type=ir.TensorType(ir.DataType.INT64))
    short = ir.Value(name="short", shape=ir.Shape(resize.shape(item.label)), type=x.type)
    for node in list(model.graph):
        replace_input(node, x, short)
    model.graph.inputs[0] = short
    model.graph.inputs.append(index)
    propagate(model, {short: item.label}, resize, index, batch=len(kept), prefix="edgeprune/test")
    for value in model.graph.outputs:
        value.shape = None
    feeds = {**feeds, "short": take(feeds.pop("x"), item.label, kept), "index": kept}
    names = {value.name for value in model.graph.inputs}
    for name in [str(v.name) for v in model.graph.inputs if not v.uses()]:
        model.graph.inputs.remove(next(v for v in model.graph.inputs if v.name == name))
        names.discard(name)
    found = Runner(model, threads=1, optimise=False).run({k: v for k, v in feeds.items() if k in names})["y"]
    wanted = dense if label is None else take(dense, label, kept)
    return found, wanted, label


def take(array: np.ndarray, label: Label, kept: np.ndarray) -> np.ndarray:
    """The rows of the tokens that stay, sample by sample, along every token factor of every axis."""
    factors = [factor for axis in label.axes for factor in axis]
    spread = array.reshape([factor_size(factor) for factor in factors])
    batch = next((i for i, f in enumerate(factors) if isinstance(f, Batch)), None)
    for i, factor in enumerate(factors):
        if isinstance(factor, Tokens):
            spread = _take_axis(spread, i, batch, [_positions(factor, row) for row in kept])
    sizes = iter(spread.shape)
    return spread.reshape([int(np.prod([next(sizes) for _ in axis], dtype=int)) for axis in label.axes])


def _take_axis(array: np.ndarray, axis: int, batch: int | None, rows: list[np.ndarray]) -> np.ndarray:
    if batch is None:
        return np.take(array, rows[0], axis=axis)
    samples = [np.take(np.take(array, [b], axis=batch), row, axis=axis) for b, row in enumerate(rows)]
    return np.concatenate(samples, axis=batch)


def _positions(tokens: Tokens, row: np.ndarray) -> np.ndarray:
    """Where the kept tokens stand along an axis that holds some segments of the stream."""
    found, at = [], 0
    for segment in tokens.segments:
        inside = np.arange(segment.size) if segment.fresh else row[(row >= segment.start) & (row < segment.stop)]
        found.append(inside + at - (0 if segment.fresh else segment.start))
        at += segment.size
    along = np.concatenate(found)
    return at - 1 - along[::-1] if tokens.flipped else along


def ints(*values: int) -> np.ndarray:
    """An int64 vector."""
    return np.asarray(values, np.int64)


def size(label: Label) -> tuple[int, ...]:
    """Shape that a label stands for."""
    return tuple(map(axis_size, label.axes))
