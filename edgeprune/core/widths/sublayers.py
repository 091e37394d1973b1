"""Sublayers: an attention or an MLP as a whole, by what it alone adds to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of, consumers, name_of, static_shape, upstream
from edgeprune.core.recognition import is_residual
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.widths.groups import Sublayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.core.recognition import Block, Recognition
    from edgeprune.core.widths.flow import Order
    from edgeprune.core.widths.groups import WidthGroup

ACTIVATIONS = set("Elu Erf Gelu HardSigmoid HardSwish LeakyRelu Mish Relu Sigmoid Softplus Swish Tanh".split())

_PRODUCTS = {"MatMul", "Gemm", "Conv", "Einsum"}
_FEWEST_PRODUCTS = 2


@dataclass(frozen=True, slots=True, eq=False)
class _Branch:
    """What one operand of a residual Add is made of, beyond the other operand."""

    join: ir.Node
    index: int
    nodes: set[ir.Node]

    @property
    def made(self) -> ir.Value:
        return _input(self.join, self.index)

    @property
    def stream(self) -> ir.Value:
        return _input(self.join, 1 - self.index)


def find_sublayers(
    order: Order, found: Recognition, mlps: Sequence[WidthGroup]
) -> tuple[tuple[Sublayer, ...], tuple[Refusal, ...]]:
    """All sublayers of a recognised model in the order of their blocks, and those that are declined.

    Args:
        order: the graph.
        found: its blocks.
        mlps: the MLPs that were found in it, to tell an attention from a block whose two parts stand in parallel.
    """
    search = _Search(order, found, {group.consumer.node: group for group in mlps})
    for node in order.nodes:
        search.visit(node)
    return tuple(search.sublayers), (*search.refusals, *search.missing())


class _Search:
    """From every residual Add back along the branch that it adds to the stream."""

    def __init__(self, order: Order, found: Recognition, mlps: dict[ir.Node, WidthGroup]) -> None:
        self.order, self.found, self.mlps = order, found, mlps
        self.sublayers: list[Sublayer] = []
        self.refusals: list[Refusal] = []
        self._branches: list[_Branch] = []
        self._told: set[int] = set()

    def visit(self, node: ir.Node) -> None:
        """One node; most are no residual Add."""
        branch = self._branch(node)
        if branch is None or any(known.join in branch.nodes for known in self._branches):
            return
        inside = [b for b in self.found.blocks if any(a.softmax in branch.nodes for a in b.attentions)]
        if len(inside) > 1 or (not inside and not _is_mlp(branch.nodes)):
            return
        self._branches.append(branch)
        block = inside[0] if inside else self._block_above(branch)
        if block is None:
            return
        refusal = self._attention_refusal(branch, block) if inside else None
        refusal = refusal or self._refusal(branch)
        if refusal is not None:
            self._told.add(block.index)
            self.refusals.append(refusal)
        else:
            self.sublayers.append(self._sublayer(branch, block, attention=bool(inside)))

    def missing(self) -> list[Refusal]:
        """Blocks whose attention is no branch of its own."""
        known = {s.block for s in self.sublayers if s.kind == "attention-sublayer"} | self._told
        reason = "no residual Add takes the attention alone"
        return [
            Refusal(RefusalCode.NOT_APPLICABLE, reason, (name_of(block.attention.softmax),))
            for block in self.found.blocks
            if block.attentions and block.index not in known
        ]

    def _branch(self, node: ir.Node) -> _Branch | None:
        """The operand of a residual Add that is computed from the other one, or from what that was added to."""
        flow = self.found.found.flow
        if len(node.inputs) != 2 or not is_residual(flow, node.outputs[0]):
            return None
        for index in (0, 1):
            made, stream = _input(node, index), _input(node, 1 - index)
            above = upstream(made)
            if any(user in above for value in self._history(stream) for user in consumers(value)):
                return _Branch(node, index, above - upstream(stream))
        return None

    def _history(self, stream: ir.Value) -> list[ir.Value]:
        """A stream, and what it was before the branch that was added last: parallel parts of a block read that."""
        before = [branch.stream for branch in self._branches if branch.join is stream.producer()]
        return [stream, *before]

    def _block_above(self, branch: _Branch) -> Block | None:
        above = upstream(branch.join.outputs[0])
        behind = [block for block in self.found.blocks if any(a.softmax in above for a in block.attentions)]
        return behind[-1] if behind else None

    def _attention_refusal(self, branch: _Branch, block: Block) -> Refusal | None:
        if any(attention.softmax not in branch.nodes for attention in block.attentions):
            reason = "several attentions stand in parallel"
            return Refusal(RefusalCode.NOT_APPLICABLE, reason, (name_of(block.attention.softmax),))
        if branch.nodes & self.mlps.keys():
            reason = f"attention and MLP are added to each other before the stream ({branch.join.op_type} node)"
            return Refusal(RefusalCode.NOT_APPLICABLE, reason, (name_of(branch.join),))
        return None

    def _refusal(self, branch: _Branch) -> Refusal | None:
        label = self.found.found.flow.labels[branch.made]
        shape = static_shape(branch.made) or ()
        if len(label.token_axes) != 1 or label.token_axes[0] == len(shape) - 1:
            reason = f"the stream has its features on another axis than the last ({branch.join.op_type} node)"
            return Refusal(RefusalCode.NOT_APPLICABLE, reason, (name_of(branch.join),))
        alone = needed_alone(self.order, branch.join, branch.index)
        shared = branch.nodes - alone
        left = next((n for n in self.order.nodes if n in shared and (_weighs(n) or n.op_type == "Softmax")), None)
        if left is None:
            return None
        reason = "what the sublayer computes is read elsewhere too"
        return Refusal(RefusalCode.NOT_APPLICABLE, reason, (_reader(left, branch),))

    def _sublayer(self, branch: _Branch, block: Block, *, attention: bool) -> Sublayer:
        alone = needed_alone(self.order, branch.join, branch.index)
        return Sublayer(
            kind="attention-sublayer" if attention else "mlp-sublayer",
            block=block.index,
            number=0 if attention else self._number(block.index, alone),
            join=branch.join,
            index=branch.index,
            nodes=tuple(node for node in self.order.nodes if node in alone),
        )

    def _number(self, block: int, nodes: set[ir.Node]) -> int:
        """That of the MLP inside, where it can be cut too; else the first that is free.

        An MLP beside its attention counts to the block in front of it among the widths, and is not looked for here.
        """
        inside = [mlp.number for node, mlp in self.mlps.items() if node in nodes and mlp.block == block]
        taken = {s.number for s in self.sublayers if s.block == block and s.kind == "mlp-sublayer"}
        free = (number for number in range(len(taken) + 1) if number not in taken)
        return inside[0] if inside and inside[0] not in taken else next(free)


def needed_alone(order: Order, join: ir.Node, index: int) -> set[ir.Node]:
    """The nodes that are computed for one input of a node and for nothing else."""
    alone: set[ir.Node] = set()
    queue: list[int] = []
    _reach(order, queue, join.inputs[index])
    while queue:
        node = order.nodes[-heappop(queue)]
        if node in alone or not all(_only_for(value, alone, join, index) for value in node.outputs):
            continue
        alone.add(node)
        for value in node.inputs:
            _reach(order, queue, value)
    return alone


def _reach(order: Order, queue: list[int], value: ir.Value | None) -> None:
    """What makes a value comes next, the last of the graph first: then all its users have been looked at."""
    node = value.producer() if value is not None else None
    if node is not None and node in order.position:
        heappush(queue, -order.position[node])


def _only_for(value: ir.Value, alone: set[ir.Node], join: ir.Node, index: int) -> bool:
    read = all(use.node in alone or (use.node is join and use.idx == index) for use in value.uses())
    return read and not value.is_graph_output()


def _is_mlp(nodes: set[ir.Node]) -> bool:
    """Whether nodes weigh twice, with an activation among them."""
    return sum(map(_weighs, nodes)) >= _FEWEST_PRODUCTS and any(node.op_type in ACTIVATIONS for node in nodes)


def _weighs(node: ir.Node) -> bool:
    """Whether a node multiplies with a weight."""
    return node.op_type in _PRODUCTS and any(constant_of(value) is not None for value in node.inputs)


def _reader(node: ir.Node, branch: _Branch) -> str:
    """Who reads the sublayer beside the stream: a graph output, or a node."""
    stack, seen = [node], {node}
    while stack:
        for value in stack.pop().outputs:
            if value.is_graph_output():
                return name_of(value)
            for user in consumers(value):
                if user is branch.join and value is branch.made:
                    continue
                if user not in branch.nodes:
                    return name_of(user)
                if user not in seen:
                    seen.add(user)
                    stack.append(user)
    return name_of(node)


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value
