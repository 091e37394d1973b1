"""The tree of errors."""

from __future__ import annotations

import re

import pytest

from edgeprune.core import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.EdgepruneError]


def test_an_error_has_a_message_and_a_hint():
    error = errors.ModelError("no nodes: `graph`", hint="export the model again")
    assert (error.message, error.hint) == ("no nodes: `graph`", "export the model again")
    assert str(error) == "no nodes: `graph` (hint: export the model again)"
    assert str(errors.ModelError("no nodes")) == "no nodes"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_caught_by_the_base_and_says_what_it_is_for(kind):
    assert issubclass(kind, errors.EdgepruneError)
    assert kind.__doc__
    assert kind.__doc__ != errors.EdgepruneError.__doc__


def test_the_drawn_tree_is_the_real_one():
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__))
    assert drawn == {kind.__name__ for kind in KINDS}
