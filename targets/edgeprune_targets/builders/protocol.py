"""What every builder keeps, ours and those of a user's own package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from edgeprune.core.results import EngineBuild
    from edgeprune_targets.profiles import Target

Typing: TypeAlias = Literal["strong", "weak"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a graph comes from, for the engine's manifest. Nothing here is needed to build.

    Attributes:
        plan_sha256: of the plan.json that the graph was made by; empty where it is not known.
        runtime: what the graph was lowered for, by the name of `edgeprune_targets.runtimes`; empty where it was not.
        typing: whether the engine keeps the graph's own types (strong) or chooses among those that it is allowed
            (weak); None takes strong where the runtime has it.
    """

    plan_sha256: str = ""
    runtime: str = ""
    typing: Typing | None = None


UNKNOWN = Origin()


@runtime_checkable
class Builder(Protocol):
    """Makes engines. A build that fails is data (`EngineBuild.error`), since the rest of a compile is still good."""

    name: ClassVar[str]

    def lacking(self) -> str | None:
        """Why nothing can be built here and how to change that; None where it can."""
        ...

    def builds_for(self, target: Target) -> str | None:
        """Why no engine for `target` can come out of this machine, and what to do; None where it can."""
        ...

    def build(
        self,
        model: Path | bytes,
        targets: Sequence[Target],
        folder: Path,
        *,
        name: str,
        attentions: int | None = None,
        origin: Origin = UNKNOWN,
    ) -> list[EngineBuild]:
        """Build one engine a compute capability into `folder`, each with its manifest beside it.

        Args:
            model: ONNX lowered and typed for the runtime; a path may have external data beside it.
            targets: those of one compute capability share an engine.
            folder: made if absent; only whole files appear in it.
            name: stem of the files.
            attentions: how many the graph has, as `edgeprune_targets.attentions.count_attentions` counts them.
            origin: what the manifest says of where the graph comes from.

        Returns:
            One result a target, in their order. Failures are results too.
        """
        ...
