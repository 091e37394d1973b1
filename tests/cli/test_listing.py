"""Lists of targets, strategies and passes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from edgeprune.cli.listing import describe, find
from edgeprune.cli.main import run
from edgeprune.core.errors import PlanError


@dataclass(frozen=True)
class Example:
    """Keep every second token.

    Refuses: nothing.
    """

    name: ClassVar[str] = "example"
    source: ClassVar[str] = "none"
    stride: int = 2
    names: tuple[str, ...] = field(default_factory=tuple)


def test_a_class_tells_what_it_is():
    kind = describe("example", Example)
    assert (kind.summary, kind.text, kind.source) == ("Keep every second token.", "Refuses: nothing.", "none")
    assert kind.options == {"stride": "2", "names": "()"}


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(PlanError) as caught:
        find("strategy", "exampel", {"example": Example})
    assert (caught.value.message, caught.value.hint) == ("no strategy is named `exampel`", "did you mean `example`?")


@pytest.mark.parametrize("kind", ["targets", "strategies", "passes"])
def test_every_list_is_also_json_with_the_same_names(kind, capfd):
    assert run([kind, "list", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert rows
    assert run([kind]) == 0
    shown = capfd.readouterr().out
    for row in rows:
        assert row["name"] in shown


@pytest.mark.parametrize("kind", ["targets", "strategies", "passes"])
def test_every_listed_name_can_be_shown(kind, capfd):
    run([kind, "list", "--json"])
    for row in json.loads(capfd.readouterr().out):
        assert run([kind, "show", row["name"]]) == 0
        assert row["name"] in capfd.readouterr().out


def test_an_unknown_target_is_invalid_input(capfd):
    assert run(["targets", "show", "no-such-device"]) == 1
    assert capfd.readouterr().err.startswith("error: ")
