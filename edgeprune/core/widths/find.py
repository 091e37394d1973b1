"""Find the width groups of a recognised model: MLPs and attentions by where their units go, not by how they look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.graph import downstream, name_of, upstream
from edgeprune.core.linear import Linear, linear_of
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.widths.flow import Order, run_widths
from edgeprune.core.widths.groups import Widths, make_group
from edgeprune.core.widths.heads import find_heads
from edgeprune.core.widths.inner import find_inner
from edgeprune.core.widths.seeds import seeds_of
from edgeprune.core.widths.sublayers import ACTIVATIONS, find_sublayers

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import onnx_ir as ir

    from edgeprune.core.plan import WidthKind
    from edgeprune.core.recognition import Recognition
    from edgeprune.core.widths.flow import WidthFlow
    from edgeprune.core.widths.groups import WidthGroup

_HEADS = {"heads", "head-size"}


def find_widths(model: ir.Model, found: Recognition, kinds: Collection[WidthKind] | None = None) -> Widths:
    """The width groups and sublayers of a model in canonical form, MLPs first, in the order of their blocks.

    Args:
        model: the graph.
        found: its blocks.
        kinds: those that are wanted at the least, which may spare the search for heads; all without.
    """
    if not found.blocks or found.stream is None:
        return Widths((), found.refusals)
    order = Order(list(model.graph))
    inner, bound = find_inner(order, found)
    mlps, declined = _Mlps(order, found, inner).find()
    attended = find_heads(order, found) if kinds is None or _HEADS & {*kinds} else Widths(())
    sublayers, whole = find_sublayers(order, found, mlps)
    by_kind: list[tuple[WidthKind, Refusal]] = [("mlp", refusal) for refusal in declined]
    by_kind += [*(("inner", refusal) for refusal in bound), *attended.declined]
    groups, refusals = (*mlps, *inner, *attended.groups), (*declined, *bound, *attended.refusals, *whole)
    return Widths(groups, refusals, sublayers, tuple(by_kind))


class _Mlps:
    """The search for MLPs: from every projection forward, to a weight that contracts what it makes."""

    def __init__(self, order: Order, found: Recognition, inner: Sequence[WidthGroup] = ()) -> None:
        self.order = order
        self.found = found
        self.behind = [downstream([node.outputs[0] for node in block.mixers]) for block in found.blocks]
        self.before = upstream(found.blocks[0].mixers[0].outputs[0])
        self.groups: list[WidthGroup] = []
        self.refusals: list[Refusal] = []
        self.taken = {linear.node for group in inner for linear in (*group.producers, *group.beside, group.consumer)}

    def find(self) -> tuple[list[WidthGroup], list[Refusal]]:
        """All of them, and those that look like one but are declined."""
        linears = [
            linear for node in self.order.nodes if (linear := linear_of(node)) is not None and self._eligible(node)
        ]
        for linear in linears:
            if linear.node not in self.taken:
                self._try(linear, linears)
        return self.groups, self.refusals

    def _eligible(self, node: ir.Node) -> bool:
        flow = self.found.found.flow
        return node not in self.before and bool(flow.tokens_on(node.outputs[0]))

    def _try(self, linear: Linear, linears: Sequence[Linear]) -> None:
        """One projection alone, then with those that read the same value: gate and up."""
        beside = [o for o in linears if o.data is linear.data and o.weight.shape == linear.weight.shape]
        flow = self._flow([linear])
        producers = [linear]
        if flow.refusal is not None and flow.refusal.code is RefusalCode.WIDTH_BOUND and len(beside) > 1:
            flow, producers = self._flow(beside), beside
        if not _is_active(flow):
            return
        refusal = flow.refusal or _no_consumer(flow)
        if refusal is not None:
            self.refusals.append(refusal)
            return
        consumer = linear_of(flow.consumers[0])
        assert consumer is not None
        block = self._block(linear.node)
        number = sum(group.block == block for group in self.groups)
        self.taken |= {producer.node for producer in producers}
        self.groups.append(make_group("mlp", block, number, producers, consumer, flow))

    def _flow(self, producers: Sequence[Linear]) -> WidthFlow:
        return run_widths(self.order, seeds_of(producers))

    def _block(self, node: ir.Node) -> int:
        behind = zip(self.found.blocks, self.behind, strict=True)
        return max((block.index for block, nodes in behind if node in nodes), default=0)


def _is_active(flow: WidthFlow) -> bool:
    """Whether the units pass an activation: then somebody meant an MLP."""
    made_by = (value.producer() for value in flow.units)
    return any(node is not None and node.op_type in ACTIVATIONS for node in made_by)


def _no_consumer(flow: WidthFlow) -> Refusal | None:
    """Why the end of a flow is no end of an MLP, or None."""
    if len(flow.consumers) == 1 and linear_of(flow.consumers[0]) is not None:
        return None
    at = tuple(name_of(node) for node in flow.consumers) or (name_of(next(iter(flow.units))),)
    reason = f"the width is contracted by {len(flow.consumers)} weights, one is known how to solve anew"
    return Refusal(RefusalCode.WIDTH_BOUND, reason, at)
