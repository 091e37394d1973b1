"""Every registered pass and strategy has its card, and no card stands alone."""

from __future__ import annotations

from pathlib import Path

import pytest

CARDS = Path(__file__).resolve().parents[2] / "passes" / "cards"
HEADINGS = ["What it does", "When it refuses", "Cost", "Source"]


def registered() -> dict[str, type]:
    from edgeprune_passes.registry import passes, strategies

    return passes() | strategies()


def test_registered_and_carded_are_the_same():
    assert {path.stem for path in CARDS.glob("*.md")} == set(registered())


def test_no_pass_has_the_name_of_a_strategy():
    from edgeprune_passes.registry import passes, strategies

    assert not set(passes()) & set(strategies())


def test_a_name_is_that_of_class_and_file():
    for name, kind in registered().items():
        assert kind.name == name
        assert kind.__module__.rpartition(".")[2] == name.replace("-", "_")


@pytest.mark.parametrize("card", sorted(CARDS.rglob("*.md")), ids=lambda path: path.stem)
def test_a_card_has_its_title_and_headings_and_says_something_under_each(card):
    text = card.read_text(encoding="utf-8")
    assert text.startswith(f"# {card.stem}\n")
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    assert [heading for heading in sections if heading in HEADINGS] == HEADINGS
    for heading in HEADINGS:
        assert sections[heading].strip(), heading


def test_a_card_names_every_option_of_its_class():
    from dataclasses import fields, is_dataclass

    for name, kind in registered().items():
        text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
        for option in fields(kind) if is_dataclass(kind) else ():
            assert f"`{option.name}`" in text, f"{name}: {option.name}"


def test_modes_of_restoring_and_their_cards_are_the_same():
    from typing import get_args

    from edgeprune.core.plan import Restore
    from edgeprune_passes.registry import restores

    assert {path.stem for path in (CARDS / "restores").glob("*.md")} == set(restores())
    assert set(get_args(Restore)) == {*restores(), "auto", "none"}
    for name, kind in restores().items():
        assert kind.name == name
        assert kind.__module__.rpartition(".")[2] == name.replace("-", "_")
        assert kind.source
        assert f"--restore {name}`" in (CARDS / "restores" / f"{name}.md").read_text(encoding="utf-8")
