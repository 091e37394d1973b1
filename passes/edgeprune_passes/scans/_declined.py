"""How a recurrence is turned down inside this room: the pass makes a refusal of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.graph import name_of
from edgeprune.core.refusals import Refusal, RefusalCode

if TYPE_CHECKING:
    import onnx_ir as ir


class DeclinedError(Exception):
    """A recurrence that is no selective scan.

    Args:
        at: where the reason stands.
        reason: one sentence for a person, no final stop.
    """

    def __init__(self, at: ir.Node | ir.Value, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(RefusalCode.NOT_SELECTIVE_SCAN, reason, (name_of(at),))
