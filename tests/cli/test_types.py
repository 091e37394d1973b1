"""Pairs of the command line."""

from __future__ import annotations

import click
import pytest

from edgeprune.cli.types import INPUT_SHAPE, LIMIT, NAMED_OPTION


@pytest.mark.parametrize(
    ("kind", "word", "value"),
    [
        (INPUT_SHAPE, "image:1x3x224x224", ("image", (1, 3, 224, 224))),
        (INPUT_SHAPE, "serving:0:1X8", ("serving:0", (1, 8))),
        (LIMIT, "kl=0.05", ("kl", 0.05)),
        (NAMED_OPTION, "iterations=5", ("iterations", 5)),
        (NAMED_OPTION, "eps=1e-3", ("eps", 0.001)),
        (NAMED_OPTION, "proportional=True", ("proportional", True)),
        (NAMED_OPTION, "metric=keys", ("metric", "keys")),
    ],
)
def test_a_pair_is_a_name_and_a_value_of_its_kind(kind, word, value):
    got = kind.convert(word, None, None)
    assert got == value
    assert type(got[1]) is type(value[1])


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (INPUT_SHAPE, "image"),
        (INPUT_SHAPE, ":1x3"),
        (INPUT_SHAPE, "image:1xN"),
        (LIMIT, "kl=low"),
        (LIMIT, "kl"),
        (NAMED_OPTION, ("metric", ["keys"])),
    ],
)
def test_any_other_form_is_refused_with_the_form(kind, word):
    with pytest.raises(click.BadParameter, match="is not of the form"):
        kind.convert(word, None, None)
