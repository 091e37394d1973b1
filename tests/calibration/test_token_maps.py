"""Token maps against what is known by hand, and pictures as the model sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from edgeprune.core.errors import ModelError, PassError
from edgeprune.core.loading import read_model
from edgeprune.core.plan import Plan, StrategySpec, TokenCut
from edgeprune.core.results import Drift
from edgeprune_calibration.data import TensorSpec, open_dataset
from edgeprune_calibration.token_maps import collect_token_maps, grid_of, save_worst
from edgeprune_passes.apply import apply_plan
from edgeprune_passes.canonicalize import Canonicalize

DEMO = Path(__file__).resolve().parents[2] / "demo"
CUT = "edgeprune/cut"


def plan_of(shape: tuple[int, ...], keeps: dict[int, int], *, patches: int, prefix: int, strategy: str = "x") -> Plan:
    spec = StrategySpec(name=strategy)
    cuts = tuple(TokenCut(block=block, keep=keep, strategy=spec) for block, keep in keeps.items())
    return Plan(model_sha256="", inputs={"x": shape}, patch_tokens=patches, prefix_tokens=prefix, blocks=6, cuts=cuts)


def by_hand(shape: tuple[int, ...], values: dict[str, np.ndarray], *, constant: bool = False) -> ir.Model:
    """A graph that says of its cuts what we say: computed from the input, or as weights."""
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=ir.Shape(shape))
    nodes, weights = [], []
    out = ir.val("y", dtype=ir.DataType.FLOAT)
    nodes.append(ir.node("Identity", [x], outputs=[out]))
    for name, value in values.items():
        if constant:
            weights.append(ir.val(f"{CUT}/{name}", const_value=ir.tensor(value, name=f"{CUT}/{name}")))
            continue
        held = ir.val(f"held/{name}", const_value=ir.tensor(value, name=f"held/{name}"))
        weights.append(held)
        made = ir.val(f"{CUT}/{name}", dtype=ir.DataType.from_numpy(value.dtype), shape=ir.Shape(value.shape))
        nodes.append(ir.node("Identity", [held], outputs=[made]))
    graph = ir.Graph([x], [out], nodes=nodes, initializers=weights, opset_imports={"": 17}, name="by-hand")
    return ir.Model(graph, ir_version=10)


def owners(model: ir.Model, plan: Plan, folder: Path, samples: int = 1) -> list[list[tuple[int, ...]]]:
    shape = plan.inputs["x"]
    np.save(folder / "x.npy", np.zeros((samples, *shape[1:]), np.float32))
    data = open_dataset(folder / "x.npy", [TensorSpec("x", shape, "float32")])
    maps = collect_token_maps(model, data, plan, folder, threads=1)
    return [[cut.owners for cut in found.cuts] for found in maps]


SHAPE = (1, 7, 4)  # one prefix token, six patches


@pytest.mark.parametrize("constant", [False, True])
def test_later_cuts_speak_of_the_stream_that_earlier_ones_left(tmp_path, constant):
    values = {"0/index": np.array([[0, 2, 3, 5, 6]]), "3/index": np.array([[0, 1, 4]])}
    model = by_hand(SHAPE, values, constant=constant)
    (found,) = owners(model, plan_of(SHAPE, {0: 4, 3: 2}, patches=6, prefix=1), tmp_path)
    assert found == [(-1, 1, 2, -1, 4, 5), (-1, 1, -1, -1, -1, 5)]


def test_a_merged_patch_goes_where_its_group_goes(tmp_path):
    values = {
        # 0 <- prefix; rows of patches 1, 3, 5; patches 0, 2, 4 go into rows 1, 2, 2
        "0/index": np.array([[0, 2, 4, 6]]),
        "0/source": np.array([[1, 3, 5]]),
        "0/own": np.array([[[1.0], [0.5], [1 / 3], [1.0]]], np.float32),
        "0/weights": np.array([[[0, 0, 0], [0.5, 0, 0], [0, 1 / 3, 1 / 3], [0, 0, 0]]], np.float32),
        # patch 1's group goes into patch 5's row
        "2/index": np.array([[0, 2, 3]]),
        "2/source": np.array([[1]]),
        "2/own": np.array([[[1.0], [1.0], [0.5]]], np.float32),
        "2/weights": np.array([[[0.0], [0.0], [0.5]]], np.float32),
        # patch 3's group is dropped whole
        "4/index": np.array([[0, 2]]),
    }
    plan = plan_of(SHAPE, {0: 3, 2: 2, 4: 1}, patches=6, prefix=1)
    (found,) = owners(by_hand(SHAPE, values), plan, tmp_path)
    assert found == [(1, 1, 3, 3, 3, 5), (5, 5, 3, 3, 3, 5), (5, 5, -1, -1, -1, 5)]


def test_most_of_a_token_decides_and_a_prefix_token_owns_no_patch(tmp_path):
    values = {
        "0/index": np.array([[0, 1, 2, 3, 4]]),
        "0/source": np.array([[5, 6]]),
        "0/own": np.array([[[0.5], [0.9], [0.4], [1.0], [1.0]]], np.float32),
        # patch 4 mostly into patch 1's row, patch 5 into the prefix token's
        "0/weights": np.array([[[0, 0.5], [0.1, 0], [0.6, 0], [0, 0], [0, 0]]], np.float32),
    }
    (found,) = owners(by_hand(SHAPE, values), plan_of(SHAPE, {0: 4}, patches=6, prefix=1), tmp_path)
    assert found == [(0, 1, 2, 3, 1, -1)]


def test_samples_of_a_batch_have_their_own_maps_and_the_last_may_run_short(tmp_path):
    shape = (2, 4, 4)
    values = {"1/index": np.array([[0, 3], [1, 2]])}
    plan = plan_of(shape, {1: 2}, patches=4, prefix=0)
    found = owners(by_hand(shape, values), plan, tmp_path, samples=3)
    assert found == [[(0, -1, -1, 3)], [(-1, 1, 2, -1)], [(0, -1, -1, 3)]]


def test_what_a_graph_does_not_say_is_an_error(tmp_path):
    plan = plan_of(SHAPE, {0: 4}, patches=6, prefix=1)
    with pytest.raises(ModelError, match="no value `edgeprune/cut/0/index`, which says what a cut did"):
        owners(by_hand(SHAPE, {}), plan, tmp_path)
    with pytest.raises(PassError, match="names a token twice"):
        owners(by_hand(SHAPE, {"0/index": np.array([[0, 1, 1, 2, 3]])}), plan, tmp_path)


def conv(height: int, width: int, patch: int) -> ir.Model:
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=ir.Shape((1, 3, height, width)))
    y = ir.val("y", dtype=ir.DataType.FLOAT, shape=ir.Shape((1, 8, height // patch, width // patch)))
    weight = ir.val("w", const_value=ir.tensor(np.zeros((8, 3, patch, patch), np.float32), name="w"))
    node = ir.node("Conv", [x, weight], {"strides": [patch, patch]}, outputs=[y])
    graph = ir.Graph([x], [y], nodes=[node], initializers=[weight], opset_imports={"": 17}, name="conv")
    return ir.Model(graph, ir_version=10)


def test_the_grid_is_read_and_never_guessed():
    assert grid_of(conv(32, 64, 8), 32) == (4, 8)
    assert grid_of(conv(32, 64, 8), 16) is None  # none of the grids has 16 patches, and the picture is not square
    assert grid_of(conv(64, 64, 8), 16) == (4, 4)  # patches were merged before the blocks; as square as the picture
    assert grid_of(conv(64, 64, 8), 18) is None
    assert grid_of(by_hand((1, 7, 4), {}), 6) == (1, 6)  # a sequence


@dataclass(frozen=True)
class Demo:
    model: ir.Model
    plan: Plan
    data: object


@pytest.fixture(scope="module")
def demo():
    """The demo's model, reduced by two strategies in turn, and its digits."""

    def made(strategy: str) -> Demo:
        source = read_model(DEMO / "digits_vit.onnx")
        Canonicalize(batch=1).apply(source.model)
        plan = plan_of((1, 1, 32, 32), {1: 40, 3: 20}, patches=64, prefix=1, strategy=strategy)
        apply_plan(source.model, plan)
        data = open_dataset(DEMO / "digits_test.npz", [TensorSpec("image", (1, 1, 32, 32), "float32")], samples=9)
        return Demo(source.model, plan, data)

    return made


@pytest.mark.parametrize(("strategy", "merges"), [("cls-topk", False), ("uniform", False), ("tome", True)])
def test_a_real_compile(demo, tmp_path, strategy, merges):
    it = demo(strategy)
    maps = collect_token_maps(it.model, it.data, it.plan, tmp_path, n=2, threads=1)
    assert [found.sample for found in maps] == ["digits_test.npz[0]", it.data.names[4]]
    for found in maps:
        assert (found.rows, found.columns) == (8, 8)
        assert (tmp_path / found.image).is_file()
        for cut, keep in zip(found.cuts, (40, 20), strict=True):
            standing = {owner for owner in cut.owners if owner >= 0}
            assert len(standing) == keep
            assert all(cut.owners[owner] == owner for owner in standing)
            assert (-1 in cut.owners) is not merges
        first, second = ({o for o in cut.owners if o >= 0} for cut in found.cuts)
        assert second < first


def test_without_cuts_there_is_nothing_to_show(demo, tmp_path):
    it = demo("uniform")
    bare = plan_of((1, 1, 32, 32), {}, patches=64, prefix=1)
    assert collect_token_maps(it.model, it.data, bare, tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def pictures(tmp_path):
    """Two photographs in folders, one of a name that no URL likes."""
    folder = tmp_path / "photographs"
    (folder / "a b").mkdir(parents=True)
    wide = np.zeros((400, 800, 3), np.uint8)
    wide[:, 200:600, 0] = 255  # red in the middle, black beyond the crop
    Image.fromarray(wide).save(folder / "a b" / "<x>.png")
    Image.new("RGB", (64, 64), "blue").save(folder / "b.png")
    return open_dataset(folder, [TensorSpec("image", (1, 3, 384, 384), "float32")])


def drift(*errors: float) -> Drift:
    return Drift(
        cosine=1, kl=None, top1_agreement=None, relative_error=0, worst_sample="", correlation=1, mean_abs_error=0,
        relative_errors=errors,
    )  # fmt: skip


def test_the_worst_come_first_and_once(pictures, tmp_path):
    worst = save_worst({"a": drift(0.1, 0.3), "b": drift(0.2, 0.05)}, pictures, tmp_path)
    assert [(w.sample, w.output, w.relative_error) for w in worst] == [("b.png", "a", 0.3), ("a b/<x>.png", "b", 0.2)]
    assert [w.sample for w in save_worst({"a": drift(0.1, float("nan"))}, pictures, tmp_path, n=1)] == ["b.png"]
    assert save_worst({"a": drift()}, pictures, tmp_path) == ()


def test_errors_of_other_samples_name_nobody(pictures, tmp_path):
    with pytest.raises(PassError, match="the drift of `a` is of 3 samples, the data has 2"):
        save_worst({"a": drift(0.1, 0.2, 0.3)}, pictures, tmp_path)


def test_a_picture_is_what_the_model_sees_and_small(pictures, tmp_path):
    first, _ = save_worst({"a": drift(0.3, 0.1)}, pictures, tmp_path)
    assert first.image.startswith("samples/x-")
    with Image.open(tmp_path / first.image) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (256, 256)
        assert np.asarray(picture)[:, 8:-8].mean(axis=(0, 1)) == pytest.approx([254, 0, 0], abs=4)  # JPEG rounds
    again = tmp_path / "again"
    again.mkdir()
    assert save_worst({"a": drift(0.3, 0.1)}, pictures, again)[0].image == first.image
    assert (again / first.image).read_bytes() == (tmp_path / first.image).read_bytes()


def test_what_is_no_picture_has_none(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 7, 4), np.float32))
    data = open_dataset(tmp_path / "x.npy", [TensorSpec("x", (1, 7, 4), "float32")])
    assert [w.image for w in save_worst({"a": drift(1, 2)}, data, tmp_path)] == [None, None]
