"""Rewrites of a graph: one pass a file; strategies choose tokens inside the pass that cuts them."""
