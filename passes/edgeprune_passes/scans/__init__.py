"""Raising: every way in which an export spells a selective scan becomes the one operator of `edgeprune.core.scans`."""
