"""Padding: tokens that a mask hides count neither in statistics nor in drift.

A mask is a graph input that reaches the scores of attention beside queries and keys, whatever its name. Which of its
values hide is not guessed either: a token is padding where no query gives it any weight. Queries that weigh all keys
the same tell nothing: exporters leave rows in which everything is hidden so.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from edgeprune.core.errors import DataError
from edgeprune.core.graph import PREFIX, static_shape
from edgeprune.core.tape import Tape
from edgeprune_calibration.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeprune.core.attention import Attention
    from edgeprune.core.recognition import Recognition
    from edgeprune_calibration.data import Dataset

# A softmax gives what is hidden exactly nothing, and what is seen at least this somewhere.
_SEEN = 1e-12

Seen = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Padding:
    """Where a model says which tokens are padding.

    Attributes:
        inputs: names of the masks.
        softmaxes: names of what the attentions' softmaxes give, in the order of the blocks.
    """

    inputs: tuple[str, ...]
    softmaxes: tuple[str, ...]


def find_padding(found: Recognition) -> Padding | None:
    """The masks of a recognised model; None if it has none, as image models have none."""
    attentions = [attention for block in found.blocks for attention in block.attentions]
    sources = set(found.stream.seeds) if found.stream is not None else set()
    masks = dict.fromkeys(v for each in attentions for v in _inputs_beside(each) if v not in sources)
    if not masks:
        return None
    return Padding(tuple(str(v.name) for v in masks), tuple(str(each.probs.name) for each in attentions))


def _inputs_beside(attention: Attention) -> list[ir.Value]:
    """Graph inputs that reach the scores on their way from the product to the softmax."""
    inner = {attention.scores, *(value for node in attention.between for value in node.outputs)}
    stack = [v for node in attention.between for v in node.inputs if v is not None and v not in inner]
    found: list[ir.Value] = []
    seen: set[ir.Value] = set(stack)
    while stack:
        value = stack.pop()
        if value.is_graph_input():
            found.append(value)
        node = value.producer()
        fresh = [v for v in node.inputs if v is not None and v not in seen] if node is not None else []
        seen.update(fresh)
        stack.extend(fresh)
    return found


class SeenTokens:
    """Writes into a graph which tokens are no padding, once for every softmax that is asked for."""

    def __init__(self, model: ir.Model, padding: Padding, batch: int) -> None:
        self.model, self.batch = model, batch
        self.position = {value: i for i, node in enumerate(model.graph) for value in node.outputs}
        wanted = set(padding.softmaxes)
        self.softmaxes = [value for value in self.position if value.name in wanted]
        self._written: dict[ir.Value, ir.Value] = {}

    def beside(self, node: ir.Node, tokens: int) -> ir.Value | None:
        """[B, T] bool by the attention that stands nearest to a node and has so many tokens; None if none has."""
        at = self.position[node.outputs[0]]
        fitting = [v for v in self.softmaxes if (static_shape(v) or (0,))[-1] == tokens]
        if not fitting:
            return None
        return self.of(min(fitting, key=lambda value: abs(self.position[value] - at)))

    def of(self, probs: ir.Value) -> ir.Value:
        """[B, T] bool: whether some query of some head that tells keys apart weighs the token."""
        if probs not in self._written:
            self._written[probs] = self._write(probs)
        return self._written[probs]

    def _write(self, probs: ir.Value) -> ir.Value:
        tape = Tape(self.model, before=None, prefix=f"{PREFIX}seen/{len(self._written)}")
        shape = static_shape(probs) or ()
        queries, keys = shape[-2:]
        whole = tape.op("Cast", probs, to=ir.DataType.FLOAT)
        probs_BHTT = tape.op("Reshape", whole, tape.ints([self.batch, prod(shape[:-2]) // self.batch, queries, keys]))
        top, low = (tape.reduce(op, probs_BHTT, 3, keepdims=True) for op in ("ReduceMax", "ReduceMin"))
        telling = tape.op("Greater", top, low)
        weighed = tape.op("Where", telling, probs_BHTT, tape.scalar(0.0))
        seen = tape.op("Greater", tape.reduce("ReduceMax", weighed, (1, 2)), tape.scalar(_SEEN))
        some = tape.reduce("ReduceMax", tape.op("Cast", telling, to=ir.DataType.FLOAT), (1, 2))  # [B, 1]
        return tape.op("Or", seen, tape.op("Less", some, tape.scalar(0.5)))


def tokens_seen(model: ir.Model, padding: Padding, data: Dataset, *, batch: int, threads: int = 0) -> Seen:
    """[n, T]: which tokens of every sample are no padding, by the first attention.

    Raises:
        DataError: if a sample has nothing but padding.
    """
    copy = model.clone()
    writer = SeenTokens(copy, padding, batch)
    copy.graph.outputs.clear()
    copy.graph.outputs.append(writer.of(writer.softmaxes[0]))
    common.RemoveUnusedNodesPass()(copy)
    runner = Runner(copy, threads=threads)
    rows: list[Seen] = []
    for names, feed in data.feeds(batch=batch):
        found = next(iter(runner.run(feed).values()))[: len(names)]
        empty = [name for name, row in zip(names, found, strict=True) if not row.any()]
        if empty:
            msg = f"{_names(padding.inputs)} hides every token of {empty[0]}"
            raise DataError(msg, hint="give samples with at least one token that is no padding")
        rows.append(found)
    return np.concatenate(rows)


def warnings_on(padding: Padding, seen: Seen) -> list[str]:
    """What a person should know about the padding of the data."""
    which = _names(padding.inputs)
    hidden = 1 - float(seen.mean())
    if not hidden:
        full = "what was measured holds for inputs of full length; give samples padded as they will be"
        return [f"{which} is a mask and hides no token of {len(seen)} samples: {full}"]
    told = [f"{which} is a mask: {hidden:.0%} of the tokens of {len(seen)} samples are padding and do not count"]
    ragged = sum(_is_ragged(row) for row in seen)
    if ragged:
        told.append(f"{which} hides tokens between others in {ragged} of {len(seen)} samples: is it noise?")
    return told


def _is_ragged(row: Seen) -> bool:
    """Whether what is seen is more than one run."""
    return int(np.count_nonzero(np.diff(row.astype(np.int8)) == 1) + row[0]) > 1


def _names(inputs: Iterable[str] | Sequence[str]) -> str:
    return " and ".join(f"`{name}`" for name in inputs)
