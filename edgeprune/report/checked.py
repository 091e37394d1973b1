"""What `check` found out, as one value; `check --json` prints this file's `CheckReport`."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeprune.core.plan import Precision
from edgeprune.core.results import EngineBuild
from edgeprune.report.environment import Environment
from edgeprune_targets.findings import Finding

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweringProof:
    """A lowered graph against the canonical one, run in ONNX Runtime on the same input.

    Attributes:
        runtime: that it was lowered for.
        max_abs_error: the largest difference over all outputs.
        max_abs_value: the largest canonical value, the scale of the error.
        tolerance: what rounding explains, as a share of the scale.
        passed: whether the error is within it.
    """

    runtime: str
    max_abs_error: float
    max_abs_value: float
    tolerance: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCheck:
    """One model on one target.

    Attributes:
        target: name of the profile.
        runtime: what it was lowered for, 'tensorrt-10.3'.
        precision: of the engine.
        would_build: no error among the findings, the lowering proved, and the engine built where one was tried.
        findings: errors first.
        opset: of the lowered graph; None where it could not be lowered.
        changes: how often each rewrite of the lowering was done.
        proof: that the lowering computes the same; None where it could not be lowered.
        attentions: in the graph.
        engine: of a real build on this machine; None where none was tried.
        not_tried: why none was; empty where one was.
        stand_in: the same typed graph built by TensorRT-RTX for a related GPU, where the device itself has to build.
            It shows that the types agree and what a matcher like the device's fuses; it decides nothing.
    """

    target: str
    runtime: str
    precision: Precision
    would_build: bool
    findings: tuple[Finding, ...] = ()
    opset: int | None = None
    changes: dict[str, int] = field(default_factory=dict)
    proof: LoweringProof | None = None
    attentions: int | None = None
    engine: EngineBuild | None = None
    not_tried: str = ""
    stand_in: EngineBuild | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """One model on all targets that were asked for.

    Attributes:
        schema: version of this format.
        would_build: on every target.
        source: the model as the user named it.
        sha256: of its file.
        inputs: static shapes that it was checked with.
        targets: in the order asked for.
        warnings: sentences that a person should read.
        environment: what ran the check.
        command: words of the command line.
    """

    schema: int = SCHEMA
    would_build: bool
    source: str
    sha256: str
    inputs: dict[str, tuple[int, ...]]
    targets: tuple[TargetCheck, ...]
    warnings: tuple[str, ...] = ()
    environment: Environment | None = None
    command: tuple[str, ...] = ()
