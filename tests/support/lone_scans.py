"""A graph that is one selective scan, its inputs at every extreme, and the recurrence itself in double precision."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeprune.core.scans import carry_function, selective_scan

NAMES = ("step", "input", "A", "B", "C")
# Sum of step * |A| in 300 and more within a few tokens, 100 and more in one, none at all, and next to none.
EXTREMES = ("mild", "steep", "zero", "tiny", "mixed")


def lone_scan(
    batch: int, tokens: int, *, channels: int = 6, states: int = 4, matrix: np.ndarray | None = None
) -> ir.Model:
    """One scan; A is an initializer where it is given, else an input."""
    sizes = ((batch, tokens, channels), (batch, tokens, channels), (channels, states)) + ((batch, tokens, states),) * 2
    values = [
        ir.Value(name=name, shape=ir.Shape(size), type=ir.TensorType(ir.DataType.FLOAT))
        for name, size in zip(NAMES, sizes, strict=True)
    ]
    node = selective_scan(values, name="y")
    inputs = values if matrix is None else [value for value in values if value.name != "A"]
    graph = ir.Graph(inputs, [node.outputs[0]], nodes=[node], opset_imports={"": 17}, name="scan")
    if matrix is not None:
        values[2].const_value = ir.tensor(matrix.astype(np.float32), name="A")
        graph.register_initializer(values[2])
    model = ir.Model(graph, ir_version=8)
    carry_function(model)
    return model


def matrix_of(channels: int = 6, states: int = 4) -> np.ndarray:
    """A as Mamba begins with it: -1, -2, ... -n in every channel."""
    return -np.tile(np.arange(1, states + 1, dtype=np.float32), (channels, 1))


def scan_inputs(kind: str, model: ir.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """What a scan is fed; A too, whether or not the graph still asks for it."""
    rng = np.random.default_rng(seed)
    sizes = {str(value.name): tuple(value.shape.numpy()) for value in model.graph[0].inputs}
    drawn = {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    drawn["A"] = matrix_of(*sizes["A"])
    steps = {
        "mild": rng.uniform(0.001, 0.1, sizes["step"]),
        "steep": rng.uniform(20.0, 110.0, sizes["step"]),
        "zero": np.zeros(sizes["step"]),
        "tiny": np.full(sizes["step"], 1e-6),
        "mixed": rng.choice([0.0, 1e-6, 1e-3, 0.1, 1.0, 30.0, 100.0], sizes["step"]),
    }
    drawn["step"] = steps[kind].astype(np.float32)
    return drawn


def recurrence(fed: dict[str, np.ndarray]) -> np.ndarray:
    """The formula, one token after the other, in double precision."""
    step, added, matrix, rows, columns = (fed[name].astype(np.float64) for name in NAMES)
    state = np.zeros((step.shape[0], step.shape[2], matrix.shape[1]))
    out = np.zeros_like(step)
    for t in range(step.shape[1]):
        state = np.exp(step[:, t, :, None] * matrix) * state + added[:, t, :, None] * rows[:, t, None, :]
        out[:, t] = (state * columns[:, t, None, :]).sum(-1)
    return out
