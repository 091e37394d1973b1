"""Numbers and runs of numbers as a person reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.core.plan import Plan

# What `Plan.scan` means.
SCANS = {
    "auto": "a loop in model.onnx, chunks in graphs for TensorRT",
    "loop": "a loop over the tokens, everywhere",
    "chunked": "chunks of tokens side by side, everywhere",
}
# What scans behind a cut make of tokens that are gone.
ALIGNMENTS = {
    "gap": "gap: the state decays by the step times the gap",
    "bias": "bias: the state decays as over tokens of zeros",
    "exact": "exact: in the block of a cut the state decays by the steps of what is gone",
    "neighbours": "neighbours: convolutions meet kept tokens at the places of those that are gone",
    "stand-in": "stand-in: convolutions and scans run over all places, with kept tokens at those that are gone",
    "none": "none: what is left is read as if nothing had been between",
}
_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def scan_rows(plan: Plan) -> list[tuple[str, str]]:
    """How scans are written, and what those behind a cut make of it; nothing where the model has none."""
    if plan.scan == "none":
        return []
    aligned = [("alignment", ALIGNMENTS[plan.alignment])] if plan.cuts else []
    return [("selective scans", SCANS[plan.scan]), *aligned]


def count(number: int) -> str:
    """Write a count with three digits and a decimal prefix: `1.26 G`."""
    for size, letter in _STEPS:
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def percent(share: float) -> str:
    """Write a share as a percentage with one decimal: `65.0 %`."""
    return f"{100 * share:.1f} %"


def of_dense(pruned: int, dense: int) -> str:
    """Write a count and its share of the dense model's."""
    share = f" ({percent(pruned / dense)})" if dense else ""
    return f"{count(pruned)}{share}"


def runs(numbers: Iterable[int]) -> str:
    """Write a sequence with its repetitions counted: `197 x4, 120, 80 x2`."""
    lengths = ((number, len(list(group))) for number, group in groupby(numbers))
    return ", ".join(f"{number} x{length}" if length > 1 else str(number) for number, length in lengths)


def small(number: float | None) -> str:
    """Write a small measured number with four decimals, a tiny one by its exponent, and a dash where there is none."""
    if number is None:
        return "-"
    return f"{number:.1e}" if 0 < abs(number) < 0.001 else f"{number:.4f}"


def times(factor: float) -> str:
    """Write a factor: `1.44x`."""
    return f"{factor:.2f}x"


def between(low: float, high: float) -> str:
    """Write a range of factors, or the one that both are."""
    return times(low) if times(low) == times(high) else f"{times(low)} to {times(high)}"


def listed(words: Sequence[str]) -> str:
    """Join words with commas and an `and`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def size(count_of_bytes: int | None) -> str:
    """Write a size in bytes: `24.8 MB`."""
    return "-" if count_of_bytes is None else f"{count(count_of_bytes)}B"


def title_of(source: str, sha256: str) -> str:
    """Name a model as the user did, without the folder; by its hash where a report does not say."""
    return source.replace("\\", "/").rpartition("/")[2] or f"model {sha256[:12]}"


def samples_words(samples: int) -> str:
    """'1 sample', '48 samples'."""
    return f"{samples} sample" if samples == 1 else f"{samples} samples"


def leaving(plan: Plan) -> str:
    """What leaves by the outputs, where that is fewer tokens than the dense model gives: '144 of 576, by divprune'."""
    cut = plan.output
    return (
        "" if cut is None else f"{cut.keep} of {plan.patch_tokens}, by {cut.strategy.name}; `kept_indices` names them"
    )


def entering(plan: Plan) -> tuple[list[int], list[int]]:
    """All tokens that enter each block, dense and pruned. A cut stands inside its block, so the next one sees it."""
    whole = plan.prefix_tokens + plan.patch_tokens
    left = [plan.prefix_tokens + kept for kept in plan.schedule()]
    return [whole] * plan.blocks, [whole, *left][: plan.blocks]
