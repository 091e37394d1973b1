"""Where tokens begin: at a patch embedding, a token embedding, a sequence input. Never from a dimension's value.

Each candidate is a hypothesis: label it, flow forward, believe it if attention over the whole of it follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from edgeprune.core.flow.call import sole_tokens
from edgeprune.core.flow.engine import Flow, run_flow
from edgeprune.core.flow.labels import (
    Axis,
    Batch,
    Grid,
    Label,
    Resize,
    Segment,
    Tokens,
    merge_segments,
    plain_axis,
    sides,
)
from edgeprune.core.flow.rules_scan import serves_scan
from edgeprune.core.graph import constant_of, consumers, downstream, static_shape
from edgeprune.core.scans import is_selective_scan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir

_CLASS_TOKEN_FIRST = 1
_LAST_TOKEN = 1


@dataclass(frozen=True, slots=True)
class Stream:
    """The token sequence of a model.

    Attributes:
        seeds: the labels that the flow starts from, tokens counted with their prefix.
        tokens: T, all tokens.
        prefix: tokens that are never removed, in one run.
        batch: B.
        grid: rows and columns of the patch grid, if the tokens come from an image.
        kind: `image`, `text` or `sequence`.
        flow: where the labels went, with nothing cut.
        place: where the run of tokens that are never removed begins; 0 for class tokens in front.
    """

    seeds: dict[ir.Value, Label]
    tokens: int
    prefix: int
    batch: int
    grid: tuple[int, int] | None
    kind: str
    flow: Flow
    place: int = 0

    @property
    def patches(self) -> int:
        """Tokens that may be removed."""
        return self.tokens - self.prefix

    def resize(self, after: int) -> Resize:
        """The change of length of the whole stream to `after` tokens."""
        left, _ = sides(self.patches, self.place, after - self.prefix)
        return Resize(self.tokens, after, self.prefix, self.place, left)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A guess of where the tokens begin."""

    value: ir.Value
    label: Label
    kind: str


def candidates(nodes: Sequence[ir.Node], inputs: Sequence[ir.Value]) -> Iterator[Candidate]:
    """Guesses in order of trust; a bare projection is believed only where nothing better is in sight."""
    trusted = [*_patch_embeddings(nodes), *_sequence_inputs(inputs)]
    yield from trusted
    if not trusted:
        yield from _first_projection(nodes)


def _sequence_inputs(inputs: Sequence[ir.Value]) -> Iterator[Candidate]:
    for value in inputs:
        shape = static_shape(value) or ()
        if len(shape) == 2 and _looks_up(value):
            yield Candidate(value, Label((_batch(shape[0]), _tokens(shape[1]))), "text")
    for value in inputs:
        shape = static_shape(value) or ()
        if len(shape) == 3:
            yield Candidate(value, Label((_batch(shape[0]), _tokens(shape[1]), plain_axis(shape[2]))), "sequence")
            yield Candidate(value, Label((_tokens(shape[0]), _batch(shape[1]), plain_axis(shape[2]))), "sequence")


def _patch_embeddings(nodes: Sequence[ir.Node]) -> Iterator[Candidate]:
    """The first convolution; where a stem behind it mixes the grid, the last ones in front of attention."""
    found = [node for node in nodes if node.op_type == "Conv" and constant_of(node.inputs[0]) is None]
    convolutions = [node for node in found if not serves_scan(node)]
    attended = downstream([node.outputs[0] for node in nodes if node.op_type == "Softmax" or is_selective_scan(node)])
    stem = [node for node in convolutions if node not in attended]
    ends = [node for node in stem if not downstream(node.outputs).intersection(stem)]
    for node in dict.fromkeys([*convolutions[:1], *ends]):
        value = node.outputs[0]
        shape = static_shape(value) or ()
        if len(shape) in {4, 5} and max(shape[2:]) > 1:  # an image, or a video; not the projection of one patch
            grid = [(Grid(size, axis, len(shape) - 2),) for axis, size in enumerate(shape[2:])]
            yield Candidate(value, Label((_batch(shape[0]), plain_axis(shape[1]), *grid)), "image")
    for node in reversed(stem):
        value = node.outputs[0]
        shape = static_shape(value) or ()
        if len(shape) == 3:
            yield Candidate(value, Label((_batch(shape[0]), plain_axis(shape[1]), _tokens(shape[2]))), "sequence")


def _first_projection(nodes: Sequence[ir.Node]) -> Iterator[Candidate]:
    """Patches cut out by a reshape and projected by a product, as in packed vision towers."""
    for node in nodes:
        if node.op_type in {"MatMul", "Gemm"} and constant_of(node.inputs[1]) is not None:
            shape = static_shape(node.outputs[0]) or ()
            lead = [_batch(shape[0])] if len(shape) == 3 else []
            if len(shape) in {2, 3}:
                label = Label((*lead, _tokens(shape[-2]), plain_axis(shape[-1])))
                yield Candidate(node.outputs[0], label, "image")
            return


def _looks_up(value: ir.Value) -> bool:
    """Whether the ids, perhaps cast or reshaped, pick rows of a constant table."""
    for node in consumers(value):
        if node.op_type == "Gather" and constant_of(node.inputs[0]) is not None:
            return True
        if node.op_type in {"Cast", "Reshape", "Identity"} and _looks_up(node.outputs[0]):
            return True
    return False


def _batch(size: int) -> Axis:
    return (Batch(size),) if size > 1 else ()


def _tokens(size: int) -> Axis:
    return (Tokens((Segment(0, size),)),)


def settle(nodes: Sequence[ir.Node], guess: Candidate, flow: Flow, segments: tuple[Segment, ...]) -> Stream | None:
    """Count the tokens with the prefix that was concatenated before them, and flow again from there.

    Args:
        nodes: the graph in order.
        guess: the candidate whose flow reached attention.
        flow: that flow.
        segments: the tokens of the first square attention, or of the first scan.

    Returns:
        The stream; None if fresh tokens stand behind or between the patches, and no scan is there to say that order
        counts, or in several places.
    """
    scans = [label for node in nodes if is_selective_scan(node) and (label := flow.labels.get(node.outputs[0]))]
    kept = _kept_run(guess, segments, scans)
    if kept is None:
        return None
    tokens, prefix, place = sum(segment.size for segment in segments), len(kept), kept.start
    seeds = {v: _whole(flow.labels[v], tokens) for v in _beginnings(flow, guess, segments)}
    batch = next((f.size for a in guess.label.axes for f in a if isinstance(f, Batch)), 1)
    result = run_flow(nodes, seeds, Resize(tokens, tokens, prefix, place, place))
    return Stream(seeds, tokens, prefix, batch, _grid(flow, seeds), guess.kind, result, place)


def _kept_run(guess: Candidate, segments: tuple[Segment, ...], scans: Sequence[Label]) -> range | None:
    """The tokens that always stay: fresh ones, as class tokens are, or those that a read-out takes.

    What a scan saw of all tokens is in its last one: where every scan runs forward and nothing is fresh, that one
    stays. Of a text, the first stays.
    """
    tokens = sum(segment.size for segment in segments)
    if any(segment.fresh for segment in segments):
        return _fresh_run(segments, anywhere=bool(scans))
    if any(one.stop > other.start for one, other in pairwise(segments)):
        return None
    if scans and not any(t.flipped for label in scans for i in label.token_axes if (t := label.tokens_at(i))):
        return range(tokens - _LAST_TOKEN, tokens)
    return range(_CLASS_TOKEN_FIRST if guess.kind == "text" else 0)


def _fresh_run(segments: tuple[Segment, ...], *, anywhere: bool) -> range | None:
    """The fresh tokens if they stand side by side: first in the sequence, or anywhere in the row of patches."""
    fresh = [i for i, segment in enumerate(segments) if segment.fresh]
    patches = merge_segments(tuple(segment for segment in segments if not segment.fresh))
    if fresh != list(range(fresh[0], fresh[0] + len(fresh))) or (fresh[0] and not (anywhere and len(patches) == 1)):
        return None
    place = sum(segment.size for segment in segments[: fresh[0]])
    return range(place, place + sum(segments[i].size for i in fresh))


def _beginnings(flow: Flow, guess: Candidate, segments: tuple[Segment, ...]) -> list[ir.Value]:
    """Where the whole sequence first stands: a later Concat, of tokens that were rotated in part, is no beginning."""
    found: list[ir.Value] = []
    behind: set[ir.Node | None] = set()
    for value in flow.labels:
        if value.producer() not in behind and _begins(flow, guess, value, segments):
            found.append(value)
            behind |= downstream([value])
    return found


def _begins(flow: Flow, guess: Candidate, value: ir.Value, segments: tuple[Segment, ...]) -> bool:
    """Whether the whole sequence first stands in this value."""
    if not _carries(flow.labels[value], segments):
        return False
    if value is guess.value:
        return True
    node = value.producer()
    before = [flow.labels[v] for v in node.inputs if v in flow.labels] if node is not None else []
    return bool(before) and not any(_carries(label, segments) for label in before)


def _carries(label: Label, segments: tuple[Segment, ...]) -> bool:
    return any((t := label.tokens_at(i)) is not None and t.segments == segments for i in label.token_axes)


def _whole(label: Label, tokens: int) -> Label:
    axes = tuple((Tokens((Segment(0, tokens),)),) if sole_tokens(axis) else axis for axis in label.axes)
    return Label(axes, label.pooled)


def _grid(flow: Flow, seeds: dict[ir.Value, Label]) -> tuple[int, int] | None:
    """Rows and columns: the last grid that was flattened into tokens."""
    for label in reversed(list(flow.labels.values())):
        sizes = [f.size for axis in label.axes for f in axis if isinstance(f, Grid)]
        if len(sizes) == 2 and not any(label is seed for seed in seeds.values()):
            return sizes[0], sizes[1]
    return None
