"""A ViT-Base/16 as ONNX with random weights: for time and memory, which do not depend on what weights say."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_WIDTH, _HEADS, _HIDDEN, _DEPTH, _TOKENS = 768, 12, 3072, 12, 197


def vit_base() -> ir.Model:
    """Pre-norm blocks with a fused projection."""
    made = _Maker()
    x = made.op("Conv", made.image, made.weight("patch", _WIDTH, 3, 16, 16), strides=[16, 16])
    x = made.op("Reshape", x, made.ints(1, _WIDTH, _TOKENS - 1))
    x = made.op("Transpose", x, perm=[0, 2, 1])
    x = made.op("Concat", made.weight("class", 1, 1, _WIDTH), x, axis=1)
    for i in range(_DEPTH):
        x = _block(made, x, f"b{i}")
    x = made.op("Gather", made.norm(x, "last"), made.ints(0, scalar=True), axis=1)
    logits = made.linear(x, "head", _WIDTH, 1000)
    logits.name, logits.type, logits.shape = "logits", ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, 1000])
    graph = ir.Graph(
        [made.image], [logits], nodes=made.nodes, initializers=made.constants, opset_imports={"": 20}, name="vit_base"
    )
    return ir.Model(graph, ir_version=9)


def _block(made: _Maker, x: ir.Value, name: str) -> ir.Value:
    qkv = made.linear(made.norm(x, f"{name}.n1"), f"{name}.qkv", _WIDTH, 3 * _WIDTH)
    qkv = made.op("Reshape", qkv, made.ints(1, _TOKENS, 3, _HEADS, _WIDTH // _HEADS))
    qkv = made.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])
    q, k, v = (made.op("Gather", qkv, made.ints(i, scalar=True), axis=0) for i in range(3))
    scores = made.op("MatMul", q, made.op("Transpose", k, perm=[0, 1, 3, 2]))
    probs = made.op(
        "Softmax", made.op("Mul", scores, made.constant(f"{name}.scale", np.array(0.125, np.float32))), axis=-1
    )
    z = made.op("Transpose", made.op("MatMul", probs, v), perm=[0, 2, 1, 3])
    z = made.op("Reshape", z, made.ints(1, _TOKENS, _WIDTH))
    x = made.op("Add", x, made.linear(z, f"{name}.proj", _WIDTH, _WIDTH))
    wide = made.op("Gelu", made.linear(made.norm(x, f"{name}.n2"), f"{name}.fc1", _WIDTH, _HIDDEN))
    return made.op("Add", x, made.linear(wide, f"{name}.fc2", _HIDDEN, _WIDTH))


class _Maker:
    """Nodes and constants in the order in which they are asked for."""

    def __init__(self) -> None:
        self.image = ir.Value(name="image", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 3, 224, 224]))
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.rng = np.random.default_rng(0)

    def op(self, kind: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        """A node with one output."""
        name = f"v{len(self.nodes)}"
        node = ir.node(kind, list(inputs), attributes=attributes, outputs=[ir.Value(name=name)], name=name)  # type: ignore[arg-type]
        self.nodes.append(node)
        return node.outputs[0]

    def weight(self, name: str, *shape: int) -> ir.Value:
        """Random, of a size that keeps activations as they are."""
        inner = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        return self.constant(name, (self.rng.standard_normal(shape) / np.sqrt(inner)).astype(np.float32))

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """An initializer."""
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.constants.append(value)
        return value

    def ints(self, *values: int, scalar: bool = False) -> ir.Value:
        """A literal."""
        return self.constant(f"c{len(self.constants)}", np.array(values[0] if scalar else values, np.int64))

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        """A LayerNormalization that scales nothing."""
        gain = self.constant(f"{name}.g", np.ones(_WIDTH, np.float32))
        shift = self.constant(f"{name}.b", np.zeros(_WIDTH, np.float32))
        return self.op("LayerNormalization", x, gain, shift, axis=-1)

    def linear(self, x: ir.Value, name: str, inner: int, outer: int) -> ir.Value:
        """A product and a bias."""
        product = self.op("MatMul", x, self.weight(f"{name}.w", inner, outer))
        return self.op("Add", product, self.constant(f"{name}.b", np.zeros(outer, np.float32)))
