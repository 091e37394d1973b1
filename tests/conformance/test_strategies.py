"""What every registered strategy keeps, tried on a real model through the public interface."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeprune
from edgeprune.core.errors import PlanError
from edgeprune.core.plan import StrategySpec
from edgeprune_calibration.runner import Runner
from edgeprune_passes.registry import make_strategy, strategies

NAMES = sorted(strategies())


@pytest.fixture
def compiled(digits, tmp_path):
    """Compile the demo's model with a strategy; skip if the strategy refuses it, which must be said with a hint."""

    def compile_with(name: str, keep: float, out: str = "out"):
        options = edgeprune.Options(strategy=name, tail_elimination=False)
        try:
            return edgeprune.compile(digits, keep=keep, out=tmp_path / out, options=options)
        except PlanError as error:
            (pytest.skip if error.hint else pytest.fail)(f"refused: {error}")

    return compile_with


def outputs(model: Path, seed: int = 0) -> dict[str, np.ndarray]:
    runner = Runner(model, threads=1, optimise=False)  # the runtime fuses a canonical graph differently
    rng = np.random.default_rng(seed)
    return runner.run({spec.name: rng.standard_normal((1, 1, 32, 32), dtype=np.float32) for spec in runner.inputs})


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_is_a_frozen_dataclass_that_says_what_it_is(name):
    kind = strategies()[name]
    strategy = kind()
    assert is_dataclass(kind)
    assert (strategy.name, bool(strategy.source)) == (name, True)
    assert kind.__doc__.splitlines()[0].endswith(".")
    for item in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(strategy, item.name, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_makes_the_strategy_with_its_options(name):
    kind = strategies()[name]
    defaults = {item.name: getattr(kind(), item.name) for item in fields(kind)}
    assert make_strategy(StrategySpec(name=name, options=defaults)) == make_strategy(StrategySpec(name=name)) == kind()


def test_a_spec_of_no_strategy_names_those_there_are():
    with pytest.raises(PlanError, match="no-such") as caught:
        make_strategy(StrategySpec(name="no-such"))
    assert caught.value.hint


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused(name):
    with pytest.raises(PlanError, match="no_such"):
        make_strategy(StrategySpec(name=name, options={"no_such": 1}))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_plan_gives_the_same_bytes(name, compiled, digits, tmp_path):
    first = compiled(name, 0.6)
    again = edgeprune.compile(digits, plan=first.plan, out=tmp_path / "again")
    assert (first.out / "model.onnx").read_bytes() == (again.out / "model.onnx").read_bytes()
    assert again.plan == first.plan


@pytest.mark.parametrize("name", NAMES)
def test_keeping_all_tokens_is_the_identity(name, compiled, digits):
    result = compiled(name, 1.0)
    for output, dense in outputs(digits).items():
        np.testing.assert_array_equal(outputs(result.out / "model.onnx")[output], dense)


@pytest.mark.parametrize("name", NAMES)
def test_the_interface_stays_and_the_graph_is_valid(name, compiled, digits):
    result = compiled(name, 0.6)
    pruned, dense = onnx.load(result.out / "model.onnx"), onnx.load(digits)
    onnx.checker.check_model(pruned, full_check=True)
    for ours, theirs in ((pruned.graph.input, dense.graph.input), (pruned.graph.output, dense.graph.output)):
        assert [(value.name, value.type.tensor_type.elem_type) for value in ours] == [
            (value.name, value.type.tensor_type.elem_type) for value in theirs
        ]
    assert result.report.pruned.tokens_per_block[-1] < result.report.model.tokens_per_block[-1] or name == "keep-all"


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_depends_on_its_input_alone(name, compiled):
    model = compiled(name, 0.6).out / "model.onnx"
    for output, first in outputs(model, seed=1).items():
        np.testing.assert_array_equal(outputs(model, seed=1)[output], first)


def test_another_seed_is_another_random_choice(digits, tmp_path):
    options = edgeprune.Options(strategy="random")
    models = [
        edgeprune.compile(digits, keep=0.6, out=tmp_path / str(seed), options=replace(options, seed=seed)).out
        for seed in (0, 1)
    ]
    assert (models[0] / "model.onnx").read_bytes() != (models[1] / "model.onnx").read_bytes()
