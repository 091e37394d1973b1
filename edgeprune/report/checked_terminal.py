"""A check on a terminal: the verdict of each target first, then what was found."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from edgeprune.report.checked import CheckReport, TargetCheck
from edgeprune.report.terminal import LOUD, render_notes, table
from edgeprune_targets.findings import Finding

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def render_check(report: CheckReport) -> RenderableType:
    """Lay out what `check` found."""
    return Group(
        *(_verdict(check) for check in report.targets),
        *_findings(report),
        *render_notes((), report.warnings),
    )


def _verdict(check: TargetCheck) -> Text:
    style = "" if check.would_build else LOUD
    word = "nothing known against it" if check.engine is None else "built"
    words = [word if check.would_build else "would NOT build", *_facts(check)]
    head = f"{check.target}  "
    return Text.assemble(
        (head, "bold"), (words[0], style), f" ({check.runtime}, {check.precision})", "".join(words[1:])
    )


def _facts(check: TargetCheck) -> Iterator[str]:
    if check.proof is not None:
        scale = f"error {check.proof.max_abs_error:.1e} at scale {check.proof.max_abs_value:.1e}"
        yield f", lowered graph {'equal' if check.proof.passed else 'NOT EQUAL'} in ONNX Runtime ({scale})"
    engine = check.engine
    if check.attentions and engine is not None and engine.built and engine.fused_attentions is not None:
        yield f", {engine.fused_attentions} of {check.attentions} attentions fused"
    other = check.stand_in
    if check.attentions and other is not None and other.built:
        fused = f"{other.fused_attentions} of {check.attentions} attentions fused"
        yield f", {fused} by TensorRT-RTX for a related GPU"
    if check.not_tried:
        yield f"; no engine was tried: {check.not_tried}"


def _findings(report: CheckReport) -> Iterator[RenderableType]:
    if not any(check.findings for check in report.targets):
        return
    made = table("Findings", "", "target", "node", "reason", "what to do", left=5)
    for check in report.targets:
        for finding in check.findings:
            word = Text(finding.severity, style=_STYLES[finding.severity])
            made.add_row(word, check.target, _nodes(finding), finding.reason, finding.remedy)
    yield made


def _nodes(finding: Finding) -> str:
    return f"{finding.node} and {len(finding.also)} more" if finding.also else finding.node
