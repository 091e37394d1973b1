"""Why a runtime cannot be timed here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lack:
    """Why a runtime does not run here, and what to do."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.remedy})"


NO_GPU = Lack("no NVIDIA device here", "run this on the device, or leave the runtime out")
