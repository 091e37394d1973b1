"""Compile exported transformers to fit edge devices: token reduction with static shapes, proved and measured.

Names are loaded when first used, so that importing edgeprune costs nothing and any module can be imported first.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.api import CompileResult, bench, check, compile, export, inspect, latency, plan, validate  # noqa: A004 (users say edgeprune.compile)
    from edgeprune.core.errors import (
        DataError,
        EdgepruneError,
        ModelError,
        PassError,
        PlanError,
        TargetError,
        ValidationError,
    )
    from edgeprune.core.plan import Plan
    from edgeprune.core.refusals import Refusal
    from edgeprune.options import Options
    from edgeprune.report import BenchReport, CheckReport, Inspection, Report, ValidationReport

_HOMES = {
    "edgeprune.api": ("CompileResult", "bench", "check", "compile", "export", "inspect", "latency", "plan", "validate"),
    "edgeprune.core.errors": (
        "DataError", "EdgepruneError", "ModelError", "PassError", "PlanError", "TargetError", "ValidationError",
    ),
    "edgeprune.core.plan": ("Plan",),
    "edgeprune.core.refusals": ("Refusal",),
    "edgeprune.options": ("Options",),
    "edgeprune.report": ("BenchReport", "CheckReport", "Inspection", "Report", "ValidationReport"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BenchReport",
    "CheckReport",
    "CompileResult",
    "DataError",
    "EdgepruneError",
    "Inspection",
    "ModelError",
    "Options",
    "PassError",
    "Plan",
    "PlanError",
    "Refusal",
    "Report",
    "TargetError",
    "ValidationError",
    "ValidationReport",
    "bench",
    "check",
    "compile",
    "export",
    "inspect",
    "latency",
    "plan",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its home.

    Raises:
        AttributeError: if there is no such name.
    """
    if name not in _HOME_OF:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
