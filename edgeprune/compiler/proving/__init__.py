"""Prove what was compiled: identity, exactness, widths, scans that were raised, graphs that were lowered."""
