"""Builders: from an ONNX file to an engine. The only part of this room that runs a vendor's library."""

from __future__ import annotations

from edgeprune_targets.builders.protocol import Builder, Origin

__all__ = ["Builder", "Origin"]
