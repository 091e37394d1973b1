"""Run a user's own ONNX GraphSurgeon function as a pass of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from edgeprune.core.errors import PlanError
from edgeprune.core.passes import PassResult

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Graphsurgeon:
    """Hand the graph to `function` as an `onnx_graphsurgeon.Graph`, and take back what it leaves or returns.

    Attributes:
        function: `pkg.module:callable`; takes a Graph, edits it in place or returns another.

    Refuses: nothing.
    Raises: `PlanError` if the function cannot be imported, fails, or changes the graph's inputs or outputs.
    Cost: two conversions of the graph.
    Source: ONNX GraphSurgeon, by NVIDIA; the only door through which it comes in.
    """

    name: ClassVar[str] = "graphsurgeon"
    runs_code: ClassVar[bool] = True
    function: str = ""

    def apply(self, model: ir.Model) -> PassResult:
        """Rewrite `model` in place.

        Raises:
            PlanError: if the function cannot be imported, fails, or changes the interface.
        """
        surgeon, function = _surgeon(), self._imported()
        before = _interface(model)
        graph = surgeon.import_onnx(ir.to_proto(model))
        try:
            graph = function(graph) or graph
            edited = ir.from_proto(surgeon.export_onnx(graph.cleanup().toposort()))
        except Exception as error:
            msg = f"the GraphSurgeon function `{self.function}` failed: {type(error).__name__}: {error}"
            raise PlanError(
                msg, hint="it takes an onnx_graphsurgeon.Graph and edits it in place or returns another"
            ) from error
        common.ShapeInferencePass()(edited)
        if _interface(edited) != before:
            msg = f"`{self.function}` changed inputs or outputs: {before} became {_interface(edited)}"
            raise PlanError(msg, hint="a pass may change what is inside a graph, not its interface")
        changes = 1 + abs(len(edited.graph) - len(model.graph))
        model.graph = edited.graph
        model.opset_imports.update(edited.opset_imports)
        return PassResult(model, changes)

    def _imported(self) -> Callable[[Any], Any]:
        module, _, name = self.function.partition(":")
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            msg = f"cannot import the GraphSurgeon function `{self.function}`: {error}"
            raise PlanError(msg, hint="write it as pkg.module:function, importable from here") from error
        return found  # type: ignore[no-any-return]


def _surgeon() -> Any:
    try:
        import onnx_graphsurgeon
    except ImportError as error:
        msg = "ONNX GraphSurgeon is not installed"
        raise PlanError(msg, hint='pip install "edgeprune[graphsurgeon]"') from error
    return onnx_graphsurgeon


def _interface(model: ir.Model) -> list[tuple[str, str]]:
    return [(str(v.name), str(v.dtype)) for v in (*model.graph.inputs, *model.graph.outputs)]
