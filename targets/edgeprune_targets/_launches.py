"""Which nodes of a graph a fusing compiler runs in one launch.

Seen in TensorRT-RTX 1.7 plans of ViTs, whose kernels are named after what they hold: a product takes the bias, the
activation and the residual Add that follow it; products that share their input are one; an attention is one; a norm
starts a kernel of its own and takes the element-wise nodes around it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from edgeprune.core.graph import producers
from edgeprune_targets.attentions import core_of, is_attention

if TYPE_CHECKING:
    import onnx_ir as ir

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "Einsum", "ConvTranspose", "Attention", "MultiHeadAttention"})
RECURRENCES = frozenset({"SelectiveScan", "Scan", "Loop"})
HEAVY = PRODUCTS | RECURRENCES | {"TopK", "GridSample"}
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "CastLike", "Dropout"})
FREE = _VIEWS | {"Constant", "Shape", "Size", "Transpose"}
_ELEMENTWISE = frozenset(
    "Add Sub Mul Div Neg Abs Pow Sqrt Exp Log Erf Tanh Sigmoid Relu LeakyRelu Elu Gelu Swish Mish Softplus".split()
) | frozenset("Clip Min Max HardSigmoid HardSwish BatchNormalization Where PRelu QuickGelu".split())


def launches(nodes: tuple[ir.Node, ...]) -> list[list[ir.Node]]:
    """Members of each kernel, in the order of the graph; every kernel has a node that costs something."""
    return _Fusion(nodes).groups


class _Fusion:
    """Sorts nodes into kernels: to a heavy node's `home`, or to a union of neighbours at one level.

    A node's level is how many heavy kernels lie before it; nodes of one level can share a launch.
    """

    def __init__(self, nodes: tuple[ir.Node, ...]) -> None:
        self._core = {member: anchor for anchor in nodes if is_attention(anchor) for member in core_of(anchor)}
        self._anchors = set(self._core.values())
        self._place = {node: at for at, node in enumerate(nodes)}
        self._levels: dict[ir.Node, int] = {}
        self._home: dict[ir.Node, ir.Node] = {}
        self._parent: dict[ir.Node, ir.Node] = {}
        for node in nodes:
            self._visit(node)
        self._merge_siblings(nodes)
        self.groups = self._collect(nodes)

    def _visit(self, node: ir.Node) -> None:
        before = [producer for producer in producers(node) if producer in self._levels]
        self._levels[node] = max((self._ready(producer) for producer in before), default=0)
        if node in self._core or node.op_type in HEAVY:
            self._home[node] = self._core.get(node, node)
            return
        host = self._host(node, before)
        if host is not None:
            self._home[node] = host
            self._levels[node] = self._levels[host]
            return
        self._parent[node] = node
        for producer in before:
            if producer in self._parent and self._levels[producer] == self._levels[node]:
                self._parent[self._find(producer)] = self._find(node)

    def _ready(self, producer: ir.Node) -> int:
        """Level from which on the output of `producer` can be read: one more if a heavy kernel makes it."""
        return self._levels[producer] + (producer in self._home)

    def _host(self, node: ir.Node, before: list[ir.Node]) -> ir.Node | None:
        """The product whose kernel computes `node` too: it comes last among what the node waits for."""
        if node.op_type not in _ELEMENTWISE and node.op_type not in _VIEWS:
            return None
        hosts = {self._home[p] for p in before if p in self._home and self._home[p].op_type in PRODUCTS}
        hosts -= self._anchors
        if not hosts:
            return None
        last = max(hosts, key=lambda host: (self._levels[host], self._place[host]))
        others = (producer for producer in before if self._home.get(producer) is not last)
        if all(self._ready(other) <= self._levels[last] + (other in self._home) for other in others):
            return last
        return None

    def _merge_siblings(self, nodes: tuple[ir.Node, ...]) -> None:
        """Products of one input with several weights become one: Q, K and V, or the two halves of a gated MLP."""
        first: dict[ir.Value | None, ir.Node] = {}
        moved: dict[ir.Node, ir.Node] = {}
        for node in nodes:
            if node.op_type not in {"MatMul", "Gemm"} or node in self._core or node.inputs[1] is None:
                continue
            if node.inputs[1].const_value is not None:
                moved[node] = first.setdefault(_origin(node.inputs[0]), node)
        for node, host in self._home.items():
            self._home[node] = moved.get(host, host)

    def _collect(self, nodes: tuple[ir.Node, ...]) -> list[list[ir.Node]]:
        groups: dict[ir.Node, list[ir.Node]] = defaultdict(list)
        for node in nodes:
            groups[self._home[node] if node in self._home else self._find(node)].append(node)
        return [members for members in groups.values() if any(node.op_type not in FREE for node in members)]

    def _find(self, node: ir.Node) -> ir.Node:
        while self._parent[node] is not node:
            node = self._parent[node]
        return node


def _origin(value: ir.Value | None) -> ir.Value | None:
    """What a value is a view of."""
    while value is not None and (node := value.producer()) is not None and node.op_type in _VIEWS:
        value = node.inputs[0]
    return value
