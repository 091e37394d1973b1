"""What every builder keeps: answers are data, files are whole, and the same build gives the same bytes."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import msgspec
import pytest

from edgeprune.core.errors import TargetError
from edgeprune_targets.builders import Builder, Origin, builder_for, builders, make_builder, registry
from edgeprune_targets.builders.manifest import read_manifest
from edgeprune_targets.profiles import load_target, target_names

NAMES = sorted(builders())


@pytest.fixture(params=NAMES)
def builder(request: pytest.FixtureRequest) -> Builder:
    """Each builder in turn."""
    return builders()[request.param]


@pytest.fixture(scope="module")
def model() -> bytes:
    """A graph that every runtime takes."""
    import onnx

    text = '<ir_version: 8, opset_import: ["": 17]> g (float16[1,4] x) => (float16[1,4] y) { y = Add(x, x) }'
    return bytes(onnx.parser.parse_model(text).SerializeToString())


def _here(builder: Builder) -> None:
    if reason := builder.lacking():
        pytest.skip(reason)


@pytest.mark.parametrize("name", NAMES)
def test_a_builder_goes_by_its_name_and_keeps_the_protocol(name):
    assert make_builder(name).name == name
    assert isinstance(make_builder(name), Builder)


def test_every_target_is_answered_with_a_reason_or_none(builder):
    for name in target_names():
        reason = builder.builds_for(load_target(name))
        assert reason is None or (reason == reason.strip().rstrip(".") and "\n" not in reason)
    lacking = builder.lacking()
    assert lacking is None or lacking == lacking.strip().rstrip(".")


def test_what_is_not_built_for_is_an_answer_and_leaves_nothing(builder, model, tmp_path):
    targets = [load_target(name) for name in target_names()]
    targets = [target for target in targets if builder.lacking() or builder.builds_for(target)]
    results = builder.build(model, targets, tmp_path / "engine", name="m", attentions=3)
    assert [result.target for result in results] == [target.name for target in targets]
    assert all((result.built, result.path, result.attentions) == (False, None, 3) for result in results)
    assert all(result.error and result.builder == builder.name for result in results)
    assert not (tmp_path / "engine").exists()


def test_garbage_is_an_answer_and_leaves_nothing(builder, tmp_path):
    (result,) = builder.build(b"no onnx", [load_target("rtx-3090")], tmp_path / "engine", name="m")
    assert not result.built
    assert result.error
    assert not list(tmp_path.glob("engine/*"))


def test_a_build_says_what_it_made_and_makes_the_same_again(builder, model, tmp_path):
    _here(builder)
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    made = []
    for source, place in ((path, "a"), (model, "b")):
        origin = Origin(plan_sha256="ab" * 32, runtime="some-1")
        targets = [load_target("rtx-4090"), load_target("rtx-4060")]
        results = builder.build(source, targets, tmp_path / place, name="m", attentions=0, origin=origin)
        assert [each.target for each in results] == ["rtx-4090", "rtx-4060"]
        assert results[0].path == results[1].path
        assert all(each.built and each.error is None and each.compute_capability == "8.9" for each in results)
        manifest = read_manifest(Path(results[0].path))
        assert (manifest.builder, manifest.plan_sha256, manifest.lowered_for) == (builder.name, "ab" * 32, "some-1")
        assert (manifest.engine_sha256, manifest.bytes) == (results[0].sha256, Path(results[0].path).stat().st_size)
        assert [(each.name, each.dtype, each.shape) for each in manifest.inputs] == [("x", "float16", (1, 4))]
        assert manifest.libraries
        assert results[0].runtime.endswith(".".join(manifest.builder_version.split(".")[:3]))
        assert {file.name for file in (tmp_path / place).iterdir()} == {
            Path(results[0].path).name,
            Path(results[0].manifest).name,
        }
        made.append(msgspec.structs.replace(manifest, seconds=0.0))
    assert made[0] == made[1]


def test_the_first_builder_that_can_is_the_targets():
    _here(make_builder("tensorrt-rtx"))
    assert builder_for(load_target("rtx-4090")).name == "tensorrt-rtx"


def test_a_plug_in_is_found_and_may_take_no_name(monkeypatch):
    path = "edgeprune_targets.builders.onnx_runtime:OrtBuilder"
    points = [EntryPoint(name="mine", value=path, group=registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "edgeprune.builders" else [])
    registry.builders.cache_clear()
    try:
        assert sorted(registry.builders()) == sorted([*NAMES, "mine"])
        points.append(EntryPoint(name="tensorrt", value=path, group=registry.GROUP))
        registry.builders.cache_clear()
        with pytest.raises(TargetError, match=r"two plug-ins of `edgeprune\.builders` are named `tensorrt`"):
            registry.builders()
    finally:
        registry.builders.cache_clear()
