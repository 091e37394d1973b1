"""What every graph holds between passes. A violation is a bug of the pass that ran last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.errors import PassError
from edgeprune.core.graph import name_of

if TYPE_CHECKING:
    import onnx_ir as ir


def check_invariants(model: ir.Model, *, after: str) -> None:
    """Check that values are produced once, before they are used, and that names are unique.

    Raises:
        PassError: naming the pass, the rule and the node.
    """
    graph = model.graph
    known = {id(v) for v in graph.inputs} | {id(v) for v in graph.initializers.values()}
    names = {str(v.name) for v in (*graph.inputs, *graph.initializers.values())}
    for node in graph:
        for value in node.inputs:
            if value is not None and id(value) not in known:
                _broken(after, f"`{value.name}` is read before it is computed", name_of(node))
        for value in node.outputs:
            if str(value.name) in names and value.name:
                _broken(after, f"two values are named `{value.name}`", name_of(node))
            names.add(str(value.name))
            known.add(id(value))
    for value in graph.outputs:
        if id(value) not in known:
            _broken(after, f"the graph output `{value.name}` is computed nowhere", "outputs")


def _broken(after: str, rule: str, where: str) -> None:
    msg = f"after the pass {after}: {rule} at {where}"
    raise PassError(msg, hint="this is a bug in edgeprune; please report it with the model's architecture")
