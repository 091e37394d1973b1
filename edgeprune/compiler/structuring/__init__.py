"""Decide which widths go, and divide one budget among tokens and widths."""
