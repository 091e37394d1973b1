"""What a compile, a validation or an inspection found out: values, as JSON for programs, as tables for a terminal."""

from __future__ import annotations

from edgeprune.report.benched import BenchReport
from edgeprune.report.checked import CheckReport
from edgeprune.report.environment import Environment, describe_environment
from edgeprune.report.inspection import BlockFacts, Inspection, ReadOutFacts, StrategyFit, TensorFacts
from edgeprune.report.report import Budget, Report, StrategyReport, ValidationReport
from edgeprune.report.serialise import from_json, to_json

__all__ = [
    "BenchReport",
    "BlockFacts",
    "Budget",
    "CheckReport",
    "Environment",
    "Inspection",
    "ReadOutFacts",
    "Report",
    "StrategyFit",
    "StrategyReport",
    "TensorFacts",
    "ValidationReport",
    "describe_environment",
    "from_json",
    "to_json",
]
