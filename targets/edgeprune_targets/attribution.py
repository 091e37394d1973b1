"""Time of a TensorRT engine's layers by transformer block, through the ONNX node names in the engine's layer metadata.

Three rules. The nodes that the metadata name decide a layer's block; where there is no metadata (TensorRT 8.5), the
node names inside the layer's own name do. A layer of two blocks, such as the residual of one fused with the norm of the
next, is split evenly between them. A layer that names more blocks, or hides what lies between its first and its last
node, is not split: its time, like that of a layer without a known node, is counted as unattributed and shown as such.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from edgeprune.core.errors import TargetError
from edgeprune.core.results import BlockLatency
from edgeprune_targets.blocks import block_in_name, blocks_of, side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx_ir as ir

_MOST_BLOCKS = 2
# Versions put \x1f, a blank or nothing between the entries; a node name may hold brackets of its own.
_ENTRY = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1f\s]|\[ONNX Layer: |$)")
_FOREIGN = re.compile(r"ForeignNode\[(.+?)(?:\.\.\.(.+?))?\]\}?$")
_SEPARATORS = re.compile(r"\x1f| \+ |[(),{}\s]+|\|\|")
_AGAIN = "run ./bench.sh on the device again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an engine: its name, the ONNX nodes in it, and whether it may hold more than it names."""

    name: str
    nodes: tuple[str, ...] = ()
    hides: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """One layer's time and the blocks it belongs to; none if it is unattributed."""

    name: str
    ms: float
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """A profile by block. Profiled times are longer than a whole run's, since layers run one by one.

    Attributes:
        layers: in the order of the engine.
        blocks: (block, ms), by block; -1 is what comes before the first.
        total_ms: of all layers.
        unattributed_ms: of those that belong to no block, or to more than can be told apart.
    """

    layers: tuple[LayerTime, ...]
    blocks: tuple[tuple[int, float], ...]
    total_ms: float
    unattributed_ms: float

    @property
    def unattributed_share(self) -> float:
        """Of the whole time."""
        return self.unattributed_ms / self.total_ms


def node_blocks(model: ir.Model) -> dict[str, int]:
    """Block of each node of a graph by its name, and by the name that TensorRT gives to a node without one.

    Args:
        model: the graph that the engine was built from.
    """
    found: dict[str, int] = {}
    for node, block in blocks_of(tuple(model.graph)).items():
        names = [node.name] if node.name else []
        names += [f"node_of_{value.name}" for value in node.outputs[:1]]
        for name in names:
            found.setdefault(name, block)
    return found


def attribute(profile: str, layers: str | None, block_of_node: Mapping[str, int]) -> Attribution:
    """Time by block.

    Args:
        profile: text that trtexec's --exportProfile wrote.
        layers: text that its --exportLayerInfo wrote; None leaves the layers' names alone to tell.
        block_of_node: of `node_blocks`.

    Raises:
        TargetError: if one of the two is no such JSON, or holds no time.
    """
    known = {layer.name: layer for layer in read_layers(layers)} if layers else {}
    times = [
        LayerTime(name=name, ms=ms, blocks=_blocks(known.get(name) or _from_name(name), block_of_node))
        for name, ms in read_profile(profile)
    ]
    sums: dict[int, float] = defaultdict(float)
    for layer in times:
        for block in layer.blocks:
            sums[block] += layer.ms / len(layer.blocks)
    return Attribution(
        layers=tuple(times),
        blocks=tuple(sorted(sums.items())),
        total_ms=sum(layer.ms for layer in times),
        unattributed_ms=sum(layer.ms for layer in times if not layer.blocks),
    )


def block_latencies(
    dense: Attribution, pruned: Attribution, dense_p50_ms: float, pruned_p50_ms: float
) -> tuple[BlockLatency, ...]:
    """Dense and pruned time of each block: its share of the profile, of the whole run's median.

    What is unattributed stays out, so that the blocks may add up to less than the whole.
    """
    before = {block: ms / dense.total_ms * dense_p50_ms for block, ms in dense.blocks}
    after = {block: ms / pruned.total_ms * pruned_p50_ms for block, ms in pruned.blocks}
    return side_by_side(before, after)


def read_profile(text: str) -> tuple[tuple[str, float], ...]:
    """(layer, ms) from --exportProfile: the median where the version gives one, else the mean.

    Raises:
        TargetError: if it is no such JSON, or holds no time.
    """
    rows = _loads(text, "profile")
    found = []
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, dict) or "name" not in row:
            continue  # the first says how often it ran
        ms = row.get("medianMs", row.get("averageMs"))
        if not isinstance(ms, (int, float)) or not isfinite(ms) or ms < 0:
            msg = f"the layer profile has time {ms!r} for {row['name']!r}, expected milliseconds"
            raise TargetError(msg, hint=_AGAIN)
        found.append((str(row["name"]), float(ms)))
    if not sum(ms for _, ms in found):
        msg = "the layer profile holds no time"
        raise TargetError(msg, hint=_AGAIN)
    return tuple(found)


def read_layers(text: str) -> tuple[Layer, ...]:
    """Layers from --exportLayerInfo, whether the version wrote them as objects or as names alone.

    Raises:
        TargetError: if it is no such JSON.
    """
    return tuple(_layer(row) for row in _rows(text))


def _rows(layers: str) -> list[Any]:
    raw = _loads(layers, "layer description")
    rows = raw.get("Layers") if isinstance(raw, dict) else raw
    if not isinstance(rows, list):
        msg = "the layer description has no list `Layers`"
        raise TargetError(msg, hint=_AGAIN)
    return [row for row in rows if isinstance(row, (str, dict))]


def _loads(text: str, what: str) -> Any:
    """JSON as trtexec writes it: with control characters inside strings in some versions.

    Raises:
        TargetError: if it is none.
    """
    try:
        return json.loads(text, strict=False)
    except ValueError as error:
        msg = f"the {what} is not JSON: {error}"
        raise TargetError(msg, hint=_AGAIN) from error


def _layer(row: str | dict[str, Any]) -> Layer:
    if isinstance(row, str):
        return _from_name(row)
    name = str(row.get("Name", ""))
    nodes = tuple(dict.fromkeys(_ENTRY.findall(str(row.get("Metadata", "")))))
    return Layer(name=name, nodes=nodes) if nodes else _from_name(name)


def _from_name(name: str) -> Layer:
    """The nodes in a name such as 'a + b', 'PWN(a, b)', 'Reformatting CopyNode for Input Tensor 0 to a'."""
    foreign = _FOREIGN.search(name)
    if foreign is not None:
        ends = tuple(end for end in foreign.groups() if end)
        return Layer(name=name, nodes=ends, hides=len(ends) > 1)
    return Layer(name=name, nodes=tuple(part for part in _SEPARATORS.split(name) if part))


def _blocks(layer: Layer, block_of_node: Mapping[str, int]) -> tuple[int, ...]:
    found = sorted({block for node in layer.nodes for block in _block_of(node, block_of_node)})
    most = 1 if layer.hides else _MOST_BLOCKS
    return tuple(found) if len(found) <= most else ()


def _block_of(node: str, block_of_node: Mapping[str, int]) -> Iterator[int]:
    """Its block, if known. What edgeprune wrote has it in the name; what lowering wrote begins with the old name."""
    ours = block_in_name(node)
    if ours is not None:
        yield ours
        return
    while node:
        if node in block_of_node:
            yield block_of_node[node]
            return
        node = node.rpartition("/")[0]
