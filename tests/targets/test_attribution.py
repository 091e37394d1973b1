"""A profile's times come back to the blocks of the user's model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from support.bundles import make_bundle
from support.fake_device import jetson

from edgeprune.core.errors import TargetError
from edgeprune.core.results import BlockLatency
from edgeprune_targets.attribution import (
    Attribution,
    attribute,
    block_latencies,
    node_blocks,
    read_layers,
    read_profile,
)
from edgeprune_targets.measured import read_measured

NODES = {"/stem/Conv": -1, "/0/qkv/MatMul": 0, "/0/Add": 0, "/1/norm": 1, "/1/MatMul": 1, "/2/MatMul": 2, "add": 2}


def _profile(**times: float) -> str:
    rows = [{"name": name, "timeMs": 50 * ms, "averageMs": 2 * ms, "medianMs": ms} for name, ms in times.items()]
    return json.dumps([{"count": 50}, *rows])


def _layers(**nodes: list[str]) -> str:
    rows = [
        {"Name": name, "Metadata": "\x1f".join(f"[ONNX Layer: {node}]" for node in each)}
        for name, each in nodes.items()
    ]
    return json.dumps({"Layers": rows, "Bindings": ["x", "y"]})


def _made(times: dict[str, float], nodes: dict[str, list[str]]) -> Attribution:
    return attribute(_profile(**times), _layers(**nodes), NODES)


def test_metadata_decides_and_the_median_counts() -> None:
    made = _made({"k0": 0.5, "k1": 0.25}, {"k0": ["/0/qkv/MatMul", "/0/Add"], "k1": ["/2/MatMul"]})
    assert made.blocks == ((0, 0.5), (2, 0.25))
    assert (made.total_ms, made.unattributed_ms) == (0.75, 0)


def test_a_layer_of_two_blocks_is_split_evenly() -> None:
    made = _made({"k": 1.0}, {"k": ["/0/qkv/MatMul", "/0/Add", "/1/norm"]})
    assert made.blocks == ((0, 0.5), (1, 0.5))


def test_a_layer_of_more_blocks_or_of_none_is_unattributed_and_not_hidden() -> None:
    made = _made(
        {"whole": 3.0, "copy": 1.0, "k": 4.0}, {"whole": ["/0/Add", "/1/norm", "/2/MatMul"], "copy": [], "k": ["add"]}
    )
    assert made.blocks == ((2, 4.0),)
    assert (made.total_ms, made.unattributed_ms, made.unattributed_share) == (8, 4, 0.5)
    assert [layer.name for layer in made.layers if not layer.blocks] == ["whole", "copy"]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("/0/qkv/MatMul + /0/Add", (0,)),
        ("PWN(/0/Add)", (0,)),
        ("PWN(PWN(/1/norm), add)", (1, 2)),
        ("Reformatting CopyNode for Input Tensor 0 to /1/MatMul", (1,)),
        ("{ForeignNode[/1/norm.../1/MatMul]}", (1,)),
        ("{ForeignNode[/0/Add.../1/MatMul]}", ()),  # what lies between is not named
        ("{ForeignNode[/1/norm]}", (1,)),
        ("__myl_FcMul_myl0_7", ()),
        ("/1/MatMul/Cast", (1,)),  # written by lowering, in the name of the node that it stands for
        ("edgeprune/cut/7/gather", (7,)),
        ("edgeprune/cls-topk/3/companion/Gather", (3,)),
    ],
)
def test_without_metadata_the_name_tells(name: str, blocks: tuple[int, ...]) -> None:
    assert attribute(_profile(**{name: 1.0}), None, NODES).layers[0].blocks == blocks
    assert attribute(_profile(**{name: 1.0}), json.dumps({"Layers": [name]}), NODES).layers[0].blocks == blocks


def test_entries_of_metadata_however_they_are_separated() -> None:
    for separator in ("\x1f", " ", ""):
        text = json.dumps([{"Name": "k", "Metadata": f"[ONNX Layer: a[0]/b]{separator}[ONNX Layer: c d]"}])
        assert read_layers(text)[0].nodes == ("a[0]/b", "c d")
    raw = '{"Layers": [{"Name": "k", "Metadata": "[ONNX Layer: a]\x1f[ONNX Layer: b]"}], "I/O Tensors": []}'
    assert read_layers(raw)[0].nodes == ("a", "b")


def test_versions_without_a_median_give_the_mean() -> None:
    assert read_profile('[{"count": 5}, {"name": "k", "timeMs": 5, "averageMs": 1.5, "percentage": 100}]') == (
        ("k", 1.5),
    )


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ('[{"count": 0}]', "the layer profile holds no time"),
        ('[{"count": 0}, {"name": "k", "averageMs": -nan}]', "the profile is not JSON"),
        ('[{"name": "k", "averageMs": NaN}]', "has time nan for 'k'"),
        ('[{"name": "k", "averageMs": "1"}]', "has time '1' for 'k'"),
        ("[", "the profile is not JSON"),
        ('{"name": "k"}', "the layer profile holds no time"),
    ],
)
def test_a_broken_profile_is_refused(profile: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        read_profile(profile)


@pytest.mark.parametrize(
    ("layers", "message"), [("{}", "no list `Layers`"), ("nothing", "is not JSON"), ("3", "no list")]
)
def test_a_broken_description_is_refused(layers: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        read_layers(layers)


def test_blocks_share_the_median_of_the_whole_run() -> None:
    dense = _made({"a": 3.0, "b": 5.0, "c": 2.0}, {"a": ["/0/Add"], "b": ["/2/MatMul"], "c": []})
    pruned = _made({"a": 3.0, "b": 1.0}, {"a": ["/0/Add"], "b": ["/stem/Conv"]})
    assert block_latencies(dense, pruned, 8.0, 3.6) == (
        BlockLatency(block=-1, dense_ms=0, pruned_ms=pytest.approx(0.9)),
        BlockLatency(block=0, dense_ms=pytest.approx(2.4), pruned_ms=pytest.approx(2.7)),
        BlockLatency(block=2, dense_ms=4.0, pruned_ms=0),
    )


def test_nodes_of_a_graph_have_their_blocks(make_encoder: Callable[..., ir.Model]) -> None:
    model = make_encoder(cut="topk")
    named = str(model.graph[1].name)
    before = node_blocks(model)[named]
    model.graph[1].name = None
    blocks = node_blocks(model)
    assert named not in blocks
    softmaxes = [
        node for node in model.graph if node.op_type == "Softmax" and not str(node.name).startswith("edgeprune/")
    ]
    assert [blocks[str(node.name)] for node in softmaxes] == list(range(len(softmaxes)))
    ours = {name: block for name, block in blocks.items() if name.startswith("edgeprune/")}
    assert len(ours) > 5
    assert set(ours.values()) == {0}  # also those of constants only, and those that the next block reads
    assert blocks[f"node_of_{model.graph[1].outputs[0].name}"] == before


def test_from_the_device_to_the_blocks(make_encoder: Callable[..., ir.Model], tmp_path: Path) -> None:
    """bench.sh's file, whatever the version, gives back each block's share."""
    blocks = node_blocks(make_encoder(cut="topk"))
    rows: list[Any] = [
        [f"kernel_{block}", [name for name in blocks if blocks[name] == block and "node_of" not in name], 1.0 + block]
        for block in sorted(set(blocks.values()))
    ]
    (tmp_path / "layers.json").write_text(json.dumps([*rows, ["reformat", [], 0.5]]))
    folder = make_bundle(tmp_path)
    for version in ("8602", "110100"):
        device = jetson(tmp_path / version, version)
        for script in ("build.sh", "bench.sh"):
            assert device.run(folder / script, FAKE_LAYERS=str(tmp_path / "layers.json")).returncode == 0
        pruned = read_measured(folder / "measured.json").pruned
        made = attribute(str(pruned.profile), pruned.layers, blocks)
        assert made.blocks == tuple((block, 1.0 + block) for block in sorted(set(blocks.values())))
        assert made.unattributed_ms == 0.5
