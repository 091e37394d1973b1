"""Counts that run fast: whole tiles, heads that fused attention takes, and no fewer than an order exists for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edgeprune.compiler.structuring.width_levels import fewest_of, levels_of


@pytest.mark.parametrize(
    ("kind", "size", "levels"),
    [
        ("mlp", 768, [128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768]),
        ("mlp", 256, [64, 128, 192, 256]),
        ("mlp", 48, [8, 16, 24, 32, 40, 48]),
        ("mlp", 10, [2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("heads", 6, [2, 3, 4, 5, 6]),
        ("heads", 2, [2]),
        ("head-size", 64, [16, 24, 32, 40, 48, 56, 64]),
        ("head-size", 16, [16]),
        ("head-size", 8, [8]),
    ],
)
def test_counts_are_aligned(kind, size, levels):
    group = SimpleNamespace(kind=kind, size=size)
    assert levels_of(group) == levels
    assert fewest_of(group) == levels[0]


def test_a_share_leaves_out_what_is_far_below_it():
    assert levels_of(SimpleNamespace(kind="mlp", size=768), 0.8) == [320, 384, 448, 512, 576, 640, 704, 768]
