"""The guide for the language side: its numbers, and its code, which is run here."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from support.tiny_vlm import LANGUAGE, Tower, canonical, pixels

from edgeprune.core.plan import OutputCut, Plan, StrategySpec
from edgeprune_calibration.runner import Runner
from edgeprune_passes.apply import apply_plan
from edgeprune_targets.language_side import language_side

IMAGE = 99


def compiled(strategy: str = "divprune") -> tuple[Any, Plan]:
    model = canonical(Tower(), 2)
    output = OutputCut(keep=6, strategy=StrategySpec(name=strategy))
    plan = Plan(model_sha256="", inputs={}, patch_tokens=24, prefix_tokens=1, blocks=2, output=output)
    apply_plan(model, plan)
    return model, plan


@pytest.fixture(scope="module")
def code() -> dict[str, Any]:
    """What the guide's Python defines."""
    (block,) = re.findall(r"```python\n(.*?)```", language_side(*compiled()) or "", re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - it is our own text, and must run as it stands
    return names


def test_it_has_the_numbers_of_this_compile():
    text = language_side(*compiled())
    assert text is not None
    assert "Of 24 image tokens 6 leave this encoder, chosen by `divprune`" in text
    assert f"| 2x24x{LANGUAGE} | 2x6x{LANGUAGE} |" in text
    assert "| `kept_indices` | | 2x6 int64 |" in text
    assert "| length | 5 + 24 + 12 = 41 | 5 + 6 + 12 = 23 |" in text
    assert "`row = kept_indices // 6`, `column = kept_indices % 6`" in text
    assert "merged into" not in text
    assert max(map(len, text.splitlines())) <= 160


def test_merged_tokens_are_said_to_be():
    assert "stand for a group that was merged into them" in (language_side(*compiled("visionzip")) or "")


def test_an_interface_that_did_not_change_needs_no_guide():
    model, plan = compiled()
    unchanged = Plan(model_sha256="", inputs={}, patch_tokens=24, prefix_tokens=1, blocks=plan.blocks)
    assert language_side(model, unchanged) is None


def test_its_code_puts_the_features_where_the_picture_was(code):
    model, _ = compiled()
    found = Runner(model, threads=1).run(pixels(2))
    features = next(v for k, v in found.items() if k != "kept_indices")[0]
    kept = found["kept_indices"][0]
    ids, mask, positions = code["prompt"]([1, 2, IMAGE, 3, 4, 5], IMAGE, kept)
    assert ids == [1, 2, *[IMAGE] * 6, 3, 4, 5]
    assert mask.tolist() == [1] * 11
    assert positions.tolist() == list(range(11))
    table = np.arange(100 * LANGUAGE, dtype=np.float32).reshape(100, LANGUAGE)
    rows = code["embed"](ids, IMAGE, table, features)
    np.testing.assert_array_equal(rows[2:8], features)
    np.testing.assert_array_equal(rows[[0, 1, 8, 9, 10]], table[[1, 2, 3, 4, 5]])


def test_positions_as_trained_are_those_of_the_dense_picture(code):
    dense = np.arange(2 + 24 + 3)
    kept = np.array([0, 5, 6, 11, 20, 23])
    _, _, positions = code["prompt"]([1, 2, IMAGE, 3, 4, 5], IMAGE, kept, as_trained=True)
    np.testing.assert_array_equal(positions, np.concatenate([dense[:2], dense[2:26][kept], dense[26:]]))
