"""What every shipped target keeps: it loads by each of its names, and survives its own JSON."""

from __future__ import annotations

import pytest

from edgeprune.report import from_json, to_json
from edgeprune_targets.profiles import Target, load_target, target_aliases, target_names


@pytest.mark.parametrize("name", target_names())
def test_a_target_is_found_by_its_name_and_survives_json(name):
    target = load_target(name)
    assert target.name == name
    assert target.description
    assert from_json(to_json(target), Target) == target


def test_an_alias_names_one_target_and_hides_none():
    for alias, name in target_aliases().items():
        assert alias not in target_names()
        assert load_target(alias) == load_target(name)
