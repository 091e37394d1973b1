"""The contract of a pass, and the pipeline that runs passes in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from edgeprune.core.invariants import check_invariants

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.refusals import Refusal


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass did. `changes == 0` with refusals means: nothing was done, and here is why."""

    model: ir.Model
    changes: int
    refusals: tuple[Refusal, ...] = ()


class Pass(Protocol):
    """A rewrite of a graph, in place.

    A pass is a frozen dataclass; its fields are its options. It may assume a valid graph and leaves a valid one.
    `name` is kebab-case and equals its file's stem, its card's stem and its word on the command line.
    """

    name: ClassVar[str]

    def apply(self, model: ir.Model) -> PassResult:
        """Rewrite `model` in place and say how much was changed."""
        ...


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Passes run one after another; itself a pass. The graph is checked after each."""

    name: ClassVar[str] = "pipeline"
    passes: tuple[Pass, ...]

    def apply(self, model: ir.Model) -> PassResult:
        """Run the passes in order.

        Raises:
            PassError: if a pass left the graph invalid.
        """
        changes = 0
        refusals: list[Refusal] = []
        for step in self.passes:
            result = step.apply(model)
            check_invariants(model, after=step.name)
            changes += result.changes
            refusals += result.refusals
        return PassResult(model, changes, tuple(refusals))
