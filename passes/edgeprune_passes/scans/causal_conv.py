"""A convolution over tokens that is trimmed behind becomes one that is padded less: exact, and the length stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of, consumers, static_shape
from edgeprune_passes.scans._edit import replace_value
from edgeprune_passes.scans._flips import slice_entries

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

_FREE_PADDING = {"NOTSET", ""}


def trim_convolutions(model: ir.Model) -> int:
    """Take padding into 1-D convolutions: what a Slice behind cuts off, and what a Pad in front puts on; how many.

    A causal convolution is written as padding of k-1 on both sides and `[..., :L]` behind, or as a Pad on the left.
    """
    found = [node for node in model.graph if node.op_type == "Conv" and _is_plain(node)]
    return sum(_take_pad(node) + _take_slice(node) for node in found)


def _is_plain(node: ir.Node) -> bool:
    source, weight = node.inputs[0], node.inputs[1]
    if source is None or weight is None or len(static_shape(weight) or ()) != 3 or static_shape(source) is None:
        return False
    auto = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else ""
    strides = node.attributes["strides"].as_ints() if "strides" in node.attributes else [1]
    return auto in _FREE_PADDING and list(strides) == [1]


def _take_slice(node: ir.Node) -> int:
    """One Slice of a run of positions, the only reader."""
    shape = static_shape(node.outputs[0])
    users = list(consumers(node.outputs[0]))
    if shape is None or len(users) != 1 or users[0].op_type != "Slice" or node.outputs[0].is_graph_output():
        return 0
    entries = slice_entries(users[0], shape)
    if entries is None or len(entries) != 1 or entries[0].axis != 2 or entries[0].step != 1:
        return 0
    (entry,) = entries
    left, right = pads_of(node)
    left, right = left - entry.start, right - (shape[2] - entry.stop)
    if left < 0 or right < 0 or entry.stop <= entry.start:
        return 0
    _set_pads(node, left, right)
    trimmed = users[0].outputs[0]
    node.outputs[0].shape = trimmed.shape
    replace_value(trimmed, node.outputs[0])
    return 1


def _take_pad(node: ir.Node) -> int:
    """A Pad with zeros on the token axis alone."""
    source = node.inputs[0]
    pad = source.producer() if source is not None else None
    if pad is None or pad.op_type != "Pad" or pad.inputs[0] is None or not _pads_zeros(pad):
        return 0
    around = constant_of(pad.inputs[1]) if len(pad.inputs) > 1 else None
    if around is None or around.size != 6 or _touches_others(around) or len(pad.inputs) > 3:
        return 0
    left, right = pads_of(node)
    _set_pads(node, left + int(around[2]), right + int(around[5]))
    node.replace_input_with(0, pad.inputs[0])
    return 1


def _pads_zeros(pad: ir.Node) -> bool:
    mode = pad.attributes["mode"].as_string() if "mode" in pad.attributes else "constant"
    if mode != "constant":
        return False
    if len(pad.inputs) < 3 or pad.inputs[2] is None:
        return True
    fill = constant_of(pad.inputs[2])
    return fill is not None and not fill.any()


def _touches_others(around: np.ndarray) -> bool:
    return bool(around[[0, 1, 3, 4]].any() or (around < 0).any())


def pads_of(node: ir.Node) -> tuple[int, int]:
    """Padding in front and behind of a 1-D convolution."""
    left, right = node.attributes["pads"].as_ints() if "pads" in node.attributes else (0, 0)
    return left, right


def _set_pads(node: ir.Node, left: int, right: int) -> None:
    import onnx_ir as ir

    node.attributes["pads"] = ir.AttrInt64s("pads", [left, right])
    node.attributes.pop("auto_pad", None)
