"""Weigh merged tokens by their size, in attention and in means, in whatever order of axes and tokens they are.

In attention log(size) is added to the logits of their keys. In a mean over tokens each counts as many as it stands for:
the mean is then that of the tokens unmerged, without bringing them back.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.flow.call import sole_tokens
from edgeprune.core.flow.labels import Batch, factor_size
from edgeprune.core.graph import PREFIX, name_of
from edgeprune.core.tape import Tape
from edgeprune_passes._layout import reshape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx_ir as ir

    from edgeprune.core.flow.engine import Flow
    from edgeprune.core.flow.labels import Label, Resize, Tokens


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """A softmax, or a mean, over tokens of different sizes.

    Attributes:
        log_size: fp32 [B, 1, 1, K] of the stream there; None while nothing was merged.
        label: of the logits or of what is averaged, with the tokens before the last cut.
        axis: the axis of the tokens.
        resize: of the last cut.
    """

    log_size: ir.Value | None
    label: Label
    axis: int
    resize: Resize


def attentions(nodes: Iterable[ir.Node], flow: Flow, resize: Resize) -> Iterator[tuple[ir.Node, Label, int]]:
    """Softmaxes behind a cut whose keys are removable tokens, whatever else is among the keys; with the keys' axis."""
    for node in nodes:
        label = flow.labels.get(node.outputs[0]) if node.op_type == "Softmax" else None
        if label is None:
            continue
        axis = (node.attributes["axis"].as_int() if "axis" in node.attributes else -1) % len(label.axes)
        keys = sole_tokens(label.axes[axis])
        if keys is not None and any(resize.segment(segment) != segment.size for segment in keys.segments):
            yield node, label, axis


def means(nodes: Iterable[ir.Node], flow: Flow, resize: Resize) -> Iterator[tuple[ir.Node, Label, int]]:
    """Means over removable tokens behind a cut, with the tokens' axis."""
    for node in nodes:
        if node.op_type != "ReduceMean" or not is_plain_pool(node, flow):
            continue
        label = flow.labels[node.inputs[0]]  # type: ignore[index]
        keys = sole_tokens(label.axes[label.token_axes[0]])
        if keys is not None and any(resize.segment(segment) != segment.size for segment in keys.segments):
            yield node, label, label.token_axes[0]


def is_plain_pool(node: ir.Node, flow: Flow) -> bool:
    """Whether merged tokens may go into a pool as they are: a mean can weigh them, an extreme does not count them."""
    value = node.inputs[0] if node.op_type in {"ReduceMean", "ReduceMax", "ReduceMin"} else None
    label, out = flow.labels.get(value) if value is not None else None, flow.labels.get(node.outputs[0])
    if label is None or out is None or not out.pooled or out.token_axes or len(label.token_axes) != 1:
        return False
    home = label.axes_of(Batch)
    return not home or home[0] < label.token_axes[0]


def weigh_mean(model: ir.Model, node: ir.Node, weighed: Weighed, batch: int) -> None:
    """Multiply what a mean averages by n * size / (sum of sizes): the mean over n tokens is then the weighted one."""
    value, tokens = node.inputs[0], sole_tokens(weighed.label.axes[weighed.axis])
    if weighed.log_size is None or value is None or tokens is None:
        return
    tape = Tape(model, before=node, prefix=f"{PREFIX}mean/{name_of(node)}")
    row = _of_keys(tape, weighed.log_size, tokens, weighed.resize, batch)
    shares = tape.op("Softmax", row, axis=-1)
    weights = tape.op("Mul", shares, tape.scalar(float(tape.shape(row)[-1])))
    node.replace_input_with(0, tape.op("Mul", value, _aligned(tape, weights, weighed, batch)))


def weigh(model: ir.Model, node: ir.Node, weighed: Weighed, batch: int) -> None:
    """Add log(size) to the logits of one softmax (ToMe's proportional attention)."""
    scores, keys = node.inputs[0], sole_tokens(weighed.label.axes[weighed.axis])
    if weighed.log_size is None or scores is None or keys is None:
        return
    tape = Tape(model, before=node, prefix=f"{PREFIX}size/{name_of(node)}")
    row = _of_keys(tape, weighed.log_size, keys, weighed.resize, batch)
    node.replace_input_with(0, tape.op("Add", scores, _aligned(tape, row, weighed, batch)))


def _of_keys(tape: Tape, log_size: ir.Value, keys: Tokens, resize: Resize, batch: int) -> ir.Value:
    """[B, 1, 1, number of keys]: keys that the stream does not have count once."""
    parts = []
    for segment in keys.segments:
        size = resize.segment(segment)
        if segment.fresh:
            parts.append(tape.constant(np.zeros((batch, 1, 1, size), np.float32)))
        else:
            start = resize.position(segment.start)
            parts.append(tape.slice(log_size, 3, start, start + size))
    if keys.flipped:
        ends = (tape.ints([-1]), tape.ints([-tape.shape(log_size)[3] - 1]), tape.ints([3]), tape.ints([-1]))
        parts = [tape.op("Slice", part, *ends) for part in reversed(parts)]
    return parts[0] if len(parts) == 1 else tape.op("Concat", *parts, axis=3)


def _aligned(tape: Tape, row: ir.Value, weighed: Weighed, batch: int) -> ir.Value:
    """The row in the order of axes of the logits; where heads are merged with the batch, once for each."""
    axes, keys = weighed.label.axes, tape.shape(row)[-1]
    shape = [keys if i == weighed.axis else 1 for i in range(len(axes))]
    home = next((i for i, axis in enumerate(axes) if any(isinstance(f, Batch) for f in axis)), None)
    if home is None or batch == 1:
        return reshape(tape, row, shape)
    sizes = [factor_size(factor) for factor in axes[home]]
    own = [factor_size(factor) if isinstance(factor, Batch) else 1 for factor in axes[home]]
    if sizes != own:
        row = tape.op("Expand", reshape(tape, row, [*own, keys]), tape.ints([*sizes, keys]))
    shape[home] = prod(sizes)
    assert home < weighed.axis, "the batch stands in front of the keys"
    return reshape(tape, row, shape)
