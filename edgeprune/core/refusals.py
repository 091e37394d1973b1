"""Refusals: the model is fine, a part of it is declined, and here is why and where."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class RefusalCode(str, Enum):
    """Why something was declined; the value is what JSON and the terminal show."""

    NO_ATTENTION = "no-attention"
    NO_SOURCE = "no-token-source"
    NO_RULE = "no-rule"
    NO_CUT_POINT = "no-cut-point"
    UNKNOWN_SHAPE = "unknown-shape"
    TOKEN_AXIS_SPLIT = "token-axis-split"
    WINDOW_PARTITION = "window-partition"
    CONVOLUTION_OVER_TOKENS = "convolution-over-tokens"
    CONTRACTION_WITHOUT_SOFTMAX = "contraction-without-softmax"
    CONTRACTION_WITH_WEIGHT = "contraction-with-weight"
    NORMALISED_OVER_TOKENS = "normalised-over-tokens"
    POOLED_REENTERS = "pooled-value-reenters"
    SLICE_INSIDE_PATCHES = "slice-inside-patches"
    REMOVABLE_TOKEN_GATHERED = "removable-token-gathered"
    RUNTIME_TOKEN_GATHER = "runtime-token-gather"
    SEGMENTS_DIFFER = "token-segments-differ"
    ORDER_SCAN = "scan-over-tokens"
    NOT_SELECTIVE_SCAN = "not-a-selective-scan"
    PATCHES_IN_OUTPUT = "patch-tokens-in-output"
    NO_CLASS_TOKEN = "no-class-token"
    POSITION_BOUND = "position-bound"
    NO_READ_OUT = "no-read-out"
    GRID_CONNECTOR = "grid-connector"
    WIDTH_BOUND = "width-bound"
    WIDTH_NORMALISED = "normalised-over-width"
    WIDTH_IN_OUTPUT = "width-in-output"
    NOT_APPLICABLE = "not-applicable"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One declined thing.

    Attributes:
        code: the kind of reason.
        reason: one sentence for a person.
        at: names of the nodes or values where the reason stands.
    """

    code: RefusalCode
    reason: str
    at: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f" at {', '.join(self.at)}" if self.at else ""
        return f"{self.code.value}: {self.reason}{where}"
