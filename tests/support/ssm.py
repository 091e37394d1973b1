"""Selective scans in the spellings of exporters, small, as ONNX text; and what they compute, in NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from edgeprune_passes.canonicalize import Canonicalize

BATCH, TOKENS, CHANNELS, STATES = 2, 6, 5, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelled:
    """One graph whose output `y` is a selective scan of its inputs.

    Attributes:
        lines: nodes in ONNX text from the inputs `u`, `s` [b, T, D], `B`, `C` [b, T, n] to the output `y` [b, T, D].
        constants: initializers beside `A` [D, n].
        outputs: that the graph has.
        domains: operator sets beside ONNX's own.
    """

    lines: str
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: str = f"float[{BATCH},{TOKENS},{CHANNELS}] y"
    domains: str = ""
    opset: int = 17

    def model(self) -> ir.Model:
        """The graph with its weights."""
        wide, narrow = (f"float[{BATCH},{TOKENS},{size}]" for size in (CHANNELS, STATES))
        header = f'<ir_version: 9, opset_import: ["": {self.opset}{self.domains}]>'
        text = f"{header} ssm ({wide} u, {wide} s, {narrow} B, {narrow} C) => ({self.outputs}) {{ {self.lines} }}"
        proto = onnx.parser.parse_model(text)
        for name, array in {"A": matrix(), **self.constants}.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return ir.from_proto(proto)


def matrix() -> np.ndarray:
    """A, negative."""
    return -np.exp(np.random.default_rng(1).standard_normal((CHANNELS, STATES))).astype(np.float32)


def feed(seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs; the step is positive."""
    random = np.random.default_rng(seed)
    shape = (BATCH, TOKENS)
    made = {name: random.standard_normal((*shape, CHANNELS)) for name in ("u", "s")}
    made |= {name: random.standard_normal((*shape, STATES)) for name in ("B", "C")}
    made["s"] = np.log1p(np.exp(made["s"]))
    return {name: array.astype(np.float32) for name, array in made.items()}


def scanned(step: np.ndarray, u: np.ndarray, A: np.ndarray, B: np.ndarray, C: np.ndarray) -> np.ndarray:
    """The recurrence in double precision: h = exp(step A) h + step B u, y = h . C."""
    step, u, A, B, C = (array.astype(np.float64) for array in (step, u, A, B, C))
    state = np.zeros((u.shape[0], *A.shape))
    out = []
    for t in range(u.shape[1]):
        state = np.exp(step[:, t, :, None] * A) * state + (step[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]
        out.append((state * C[:, t, None, :]).sum(-1))
    return np.stack(out, 1)


def expected(given: dict[str, np.ndarray]) -> np.ndarray:
    """What `y` is."""
    return scanned(given["s"], given["u"], matrix(), given["B"], given["C"])


def raised(model: ir.Model) -> ir.Model:
    """The canonical graph."""
    made = model.clone()
    Canonicalize().apply(made)
    return made


def run(model: ir.Model, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs in ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, {value.name: given[value.name] for value in session.get_inputs()})


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference as a share of the largest value."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def operators(model: ir.Model) -> list[str]:
    """Operators of the graph, in order."""
    return [node.op_type for node in model.graph]
