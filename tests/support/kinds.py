"""Strategies by what they read: which a test of one kind of model can try."""

from __future__ import annotations

from edgeprune_passes.registry import strategies

SCANS = sorted(name for name in strategies() if name.startswith("ssm-"))
ATTENTION = sorted(set(strategies()) - set(SCANS))
