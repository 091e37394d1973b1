"""What can go wrong, as one tree.

    EdgepruneError            a promise that could not be kept; has a message and a hint
    ├── ModelError            the file is not a model we can read, or declares what we cannot compile
    ├── PlanError             the plan does not fit the model, or asks for the impossible
    ├── DataError             the calibration or validation data cannot be used
    ├── TargetError           the profile is wrong, or the runtime cannot build or run the result
    ├── ValidationError       a limit that the user set was passed
    └── PassError             a pass broke its own contract: a bug of ours

A refusal is not an error: the model is fine, we decline to change a part of it. See `edgeprune.core.refusals`.
"""

from __future__ import annotations


class EdgepruneError(Exception):
    """Base of every error that edgeprune raises on purpose.

    Args:
        message: what is wrong, where, what was expected and what was found; one line, no trailing period.
        hint: what the user can do next; may be empty.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class ModelError(EdgepruneError):
    """The file is not a model that can be read, or declares what cannot be compiled."""


class PlanError(EdgepruneError):
    """The plan does not fit the model, or the request cannot be met."""


class DataError(EdgepruneError):
    """The calibration or validation data cannot be read, or has the wrong shape."""


class TargetError(EdgepruneError):
    """The target profile is wrong, or its runtime cannot build or run the model."""


class ValidationError(EdgepruneError):
    """A limit that the user set on the drift was passed."""


class PassError(EdgepruneError):
    """A pass broke its own contract: a bug in edgeprune, never the user's fault."""
