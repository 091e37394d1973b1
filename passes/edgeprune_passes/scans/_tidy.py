"""What moves axes behind a raised scan, said in as few operators as it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.graph import PREFIX, consumers, static_shape
from edgeprune.core.tape import Tape, fresh_name
from edgeprune_passes.scans._arrange import laid_out
from edgeprune_passes.scans._edit import replace_value
from edgeprune_passes.scans._views import View, below

if TYPE_CHECKING:
    import onnx_ir as ir

_ORDER = "BTD"


def tidy_result(model: ir.Model, node: ir.Node) -> None:
    """Replace the chain of layout operators behind a scan by the shortest that gives the same."""
    shape = static_shape(node.outputs[0])
    if shape is None:
        return
    sizes = dict(zip(_ORDER, shape, strict=True))
    users = list(consumers(node.outputs[0]))
    # Of a scan from the last token on, the result is turned about first.
    start = users[0].outputs[0] if len(users) == 1 and users[0].op_type == "Slice" else node.outputs[0]
    seen = View(start, tuple((letter,) for letter in _ORDER))
    end, count = _end(seen, sizes)
    if count < 2:
        return
    after = end.value.producer()
    assert after is not None
    tape = Tape(model, before=after, prefix=fresh_name(model, f"{PREFIX}scan"))
    replace_value(end.value, laid_out(tape, start, _ORDER, end.axes, sizes))


def _end(seen: View, sizes: dict[str, int]) -> tuple[View, int]:
    """The last value of the chain, and how many operators lead to it."""
    count = 0
    while not seen.value.is_graph_output():
        users = list(consumers(seen.value))
        moved = below(seen, users[0], sizes) if len(users) == 1 else None
        if moved is None:
            break
        seen, count = moved, count + 1
    return seen, count
