"""One thing that stands against a build, or that makes an engine slower than it need be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding about one node, or about several nodes for one reason.

    Attributes:
        node: its name, or its first output's where it has none; the name of a graph input; 'graph' for all of it.
        reason: one sentence.
        remedy: what to do about it.
        severity: error: it would not build, or compute something else; warning: it builds, but slower, or otherwise
            than the graph says; note: what to look at on the device.
        also: further nodes that the same holds for.
    """

    node: str
    reason: str
    remedy: str
    severity: Severity = "error"
    also: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = f" and {len(self.also)} more" if self.also else ""
        return f"{self.node}{more}: {self.reason}; {self.remedy}"
