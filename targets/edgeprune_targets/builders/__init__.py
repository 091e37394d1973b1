"""Builders: from an ONNX file to an engine. The only part of this room that runs a vendor's library."""

from __future__ import annotations

from edgeprune_targets.builders.protocol import Builder, Origin
from edgeprune_targets.builders.registry import builder_for, builders, make_builder

__all__ = ["Builder", "Origin", "builder_for", "builders", "make_builder"]
