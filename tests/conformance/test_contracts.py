"""What every registered pass and strategy promises by its shape, whatever it does."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from support.kinds import ATTENTION
from support.surgery import canonical, forward
from support.tiny_torch import Spelling, example

from edgeprune.core.plan import Plan, StrategySpec, TokenCut, plan_from_json, plan_to_json
from edgeprune.core.recognition import recognize
from edgeprune_passes.reduce_tokens import ReduceTokens
from edgeprune_passes.registry import make_strategy, passes, strategies
from edgeprune_passes.selection import Strategy

EVERY = {**passes(), **strategies()}
FIRST, SECOND = Spelling(), Spelling(attention="mha", prefix=2)


@pytest.mark.parametrize("name", EVERY)
def test_options_are_values_of_a_frozen_dataclass(name: str) -> None:
    kind = EVERY[name]
    thing = kind()
    assert is_dataclass(kind)
    assert not hasattr(thing, "__dict__"), "slots: nothing is kept on self"
    assert copy.deepcopy(thing) == replace(thing) == thing


@pytest.mark.parametrize("name", EVERY)
def test_the_docstring_says_when_it_refuses_what_it_costs_and_whence_it_comes(name: str) -> None:
    doc = EVERY[name].__doc__ or ""
    assert "Refuses:" in doc or "Raises:" in doc
    assert "Source:" in doc
    if fields(EVERY[name]):
        assert "Attributes:" in doc
        assert all(f"{option.name}:" in doc for option in fields(EVERY[name]))
    if name in strategies():
        assert "Cost:" in doc


@pytest.mark.parametrize("name", EVERY)
def test_one_name_for_class_file_and_card(name: str) -> None:
    stem = EVERY[name].__module__.rpartition(".")[2]
    assert EVERY[name].name == name == stem.replace("_", "-")
    assert (Path(__file__).resolve().parents[2] / "passes" / "cards" / f"{name}.md").is_file()
    words = "".join(part.capitalize() for part in name.split("-"))
    assert EVERY[name].__name__ == words


@pytest.mark.parametrize("name", strategies())
def test_options_survive_a_plan(name: str) -> None:
    options = {item.name: getattr(strategies()[name](), item.name) for item in fields(strategies()[name])}
    cut = TokenCut(block=1, keep=9, strategy=StrategySpec(name=name, options=options))
    plan = Plan(model_sha256="0", inputs={}, patch_tokens=25, prefix_tokens=1, blocks=3, cuts=(cut,))
    assert plan_from_json(plan_to_json(plan)) == plan
    assert make_strategy(plan_from_json(plan_to_json(plan)).cuts[0].strategy) == strategies()[name]()
    assert json.loads(plan_to_json(plan))["cuts"][0]["strategy"]["name"] == name


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("spelling", [FIRST, SECOND], ids=["one prefix token", "two, sequence first"])
def test_the_index_keeps_its_promise(name: str, spelling: Spelling) -> None:
    """Ascending, prefix tokens first, as many as asked, for each sample its own; whatever is written is finite."""
    model = canonical(spelling, 2)
    found = recognize(model)
    strategy: Strategy = make_strategy(StrategySpec(name=name))
    assert isinstance(strategy, Strategy)
    assert strategy.refuses(found.blocks[0], spelling.prefix) is None
    fewest = strategy.fewest(25, spelling.prefix)
    assert 1 <= fewest <= 25
    for keep in sorted({fewest, max(fewest, 17), 25}):
        pruned = model.clone()
        ReduceTokens((TokenCut(block=0, keep=keep, strategy=StrategySpec(name=name)),)).apply(pruned)
        roles = {f"edgeprune/cut/0/{role}" for role in ("index", "size", "own", "weights")}
        named = [v for node in pruned.graph for v in node.outputs if v.name in roles]
        pruned.graph.outputs.extend(named)
        found_values = forward(pruned, example(spelling, 2))
        index = found_values["edgeprune/cut/0/index"]
        assert index.shape == (2, keep + spelling.prefix)
        assert (np.diff(index, axis=1) > 0).all()
        assert (index[:, : spelling.prefix] == np.arange(spelling.prefix)).all()
        assert index.max() < 25 + spelling.prefix
        assert all(np.isfinite(value).all() for value in found_values.values())


@pytest.mark.parametrize("name", ATTENTION)
def test_a_strategy_writes_in_front_of_what_reads_it_and_leaves_the_rest(name: str) -> None:
    model = canonical(FIRST, 1)
    before = {str(node.name) for node in model.graph}
    keep = max(17, make_strategy(StrategySpec(name=name)).fewest(25, 1))
    ReduceTokens((TokenCut(block=1, keep=keep, strategy=StrategySpec(name=name)),)).apply(model)
    new = [str(node.name) for node in model.graph if str(node.name) not in before]
    assert new
    assert all(node.startswith("edgeprune/") for node in new)
    assert before <= {str(node.name) for node in model.graph}
    assert not {node.op_type for node in model.graph} & {"NonZero", "ScatterND", "ScatterElements", "Loop", "If"}
    assert all(node.domain == "" for node in model.graph)
