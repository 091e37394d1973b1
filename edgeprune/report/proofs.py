"""Which proofs failed, in words: a model that fails one must not be used, whatever else its report says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune.core.results import EngineBuild, Exactness, Validation
    from edgeprune.report.checked import LoweringProof


def failed_proofs(
    validation: Validation, lowerings: Sequence[LoweringProof] = (), engines: Sequence[EngineBuild] = ()
) -> tuple[str, ...]:
    """A sentence for each proof that was run and failed; none that was not run."""
    failed = []
    if validation.scans is not None and not validation.scans.passed:
        failed.append(f"the raised scans are NOT the source's: {error_words(validation.scans)}")
    if validation.identity is False:
        failed.append("with all tokens kept, the outputs are NOT the dense model's")
    if validation.exactness is not None and not validation.exactness.passed:
        failed.append(f"the cuts are NOT the independent reference's: {error_words(validation.exactness)}")
    if validation.widths is not None and not validation.widths.passed:
        failed.append(f"the cut widths are NOT the zeroed model's: {error_words(validation.widths)}")
    failed += [_lowering(proof) for proof in lowerings if not proof.passed]
    wrong = [engine for engine in engines if engine.check is not None and not engine.check.passed]
    failed += [f"the engine for {engine.target} does NOT give ONNX Runtime's outputs" for engine in wrong]
    return tuple(failed)


def error_words(exactness: Exactness) -> str:
    """The error of a proof, its scale, and how it was made."""
    return f"error {exactness.max_abs_error:.1e} at scale {exactness.max_abs_value:.1e} ({exactness.method})"


def _lowering(proof: LoweringProof) -> str:
    error = f"error {proof.max_abs_error:.1e} at scale {proof.max_abs_value:.1e}"
    return f"the graph lowered for {proof.runtime} does NOT give the compiled one's numbers: {error}"
