r"""Vim with tokens removed on the way, in PyTorch from its formulas: the judge of what the compiler makes of scans.

It shares no code with edgeprune. Weights are those of `demo/vim.py`, by its names; one image batch may keep other
tokens in each sample.

A block of one direction, for its input x [B,L,D] in the order of that direction (the backward one reads the sequence
flipped and its result is flipped back):

    u     = SiLU(causal depthwise convolution of x)
    delta = softplus(dt_proj(...)),  B, C = x_proj(u)
    h_t   = exp(step_t A) h_(t-1) + delta_t B_t u_t          y_t = C_t h_t + D u_t

Without alignment the decay step is delta itself. The class token is a step like any other.

Importance of token t, with f the forward and b the backward direction, flipped back:

    ssm-output   S_t = sum_c max(0, y^f_(t,c) + y^b_(t,c))        before the gate
    ssm-delta    S_t = mean_c delta^f_(t,c) + mean_c delta^b_(t,c)
    ssm-runs     S_t = |x_t - x_(t-1)| |y_t - y_(t-1)|, x the stream behind the block; the first of a side is kept

Of the K patch tokens kept, half stand before the class token and half behind it; order is kept.

Alignment. q_1 < q_2 < ... are the kept tokens' places in the uncut sequence, gap_j = q_j - q_(j-1), and the same from
the other end for the backward direction. After the cut, in every later block:

    none    step = delta
    gap     step = gap_j * delta
    bias    step = delta + (gap_j - 1) * softplus(dt_proj.bias)

`exact` is of the block of the cut: there the scan itself runs over the kept tokens only, with

    step_j = sum of step_p over q_(j-1) < p <= q_j

of the deltas that all tokens have there; the removed ones let the state decay and add nothing to it. Convolution and
projections still see all tokens. What multiplies B_t u_t is delta_t in every mode.

Stand-ins. Behind a cut the convolution meets false neighbours, and the scan misses what removed tokens would have put
in. The stand-in r(p) of a place p of the uncut sequence is the token there if it was kept, else the kept token that
p's was merged into (or would have been). With x' [B,L,D] = x_(r(1)), ..., x_(r(L)) in the order of the direction:

    none          u = SiLU(conv(x)) over the kept tokens, one behind the other
    convolution   u = SiLU(conv(x')), then at the kept places only
    scan          u = SiLU(conv(x')); projections and scan over all places, the result at the kept ones

Merging. A removed token goes into the kept patch token whose stream is most similar to its own by cosine, on either
side of the class token; the kept token's stream becomes the mean of its group, each weighted by its size. Where the
head takes the mean of all tokens, sizes weigh it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Alignment = Literal["none", "gap", "bias"]
Score = Literal["ssm-output", "ssm-delta"]
StandIns = Literal["none", "convolution", "scan"]
# stream, kept tokens, class token -> for each token [B,L] the kept one that it goes into, as an index among the kept
Standing = Callable[[Tensor, Tensor, "int | None"], Tensor]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a selection may read in the block of its cut.

    Shapes: stream [B,L,D] after the block and its residual; output [B,L,inner], the sum of both directions before the
    gate; delta [B,L,inner], their sum; place [B,L] in the uncut sequence; middle is the class token's index, None
    where there is none.
    """

    block: int
    stream: Tensor
    output: Tensor
    delta: Tensor
    place: Tensor
    middle: int | None


# Ascending indices of the tokens kept, [B,K+1] with the class token's among them.
Selection = Callable[[Seen], Tensor]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Tokens leave behind a block.

    Attributes:
        block: index from zero.
        select: which stay.
        merge: removed tokens go into kept ones rather than away.
        into: into which; the most similar patch token where it is None.
        exact: the scan of this block already runs over the kept tokens only. A merge needs the stream of the removed
            ones behind the block, so it takes that of the block's input.
    """

    block: int
    select: Selection
    merge: bool = False
    into: Standing | None = None
    exact: bool = False


@dataclass(frozen=True, kw_only=True)
class Operands:
    """Of one direction's scan, in the order of the sequence: step, delta, u [B,L,D]; B, C [B,L,n]; A [D,n]."""

    step: Tensor
    delta: Tensor
    u: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


def scan(o: Operands) -> Tensor:
    """The recurrence, a step at a time: y [B,L,D]."""
    A, added = o.A.t(), o.delta * o.u
    state = o.u.new_zeros(len(o.u), *A.shape)
    outputs = []
    for t in range(o.u.shape[1]):
        state = torch.exp(o.step[:, t, None] * A) * state + o.B[:, t, :, None] * added[:, t, None]
        outputs.append((o.C[:, t, :, None] * state).sum(1))
    return torch.stack(outputs, 1) + o.D * o.u


@dataclass(frozen=True, kw_only=True)
class Line:
    """Where the tokens that are left stand, in the order of a direction.

    Shapes: place [B,K], each one's in the uncut sequence, ascending; stands [B,L], the one that stands at each place.
    """

    place: Tensor
    stands: Tensor

    @classmethod
    def whole(cls, batch: int, tokens: int) -> Line:
        """Every token at its place."""
        every = torch.arange(tokens).expand(batch, tokens)
        return cls(place=every, stands=every)

    def flipped(self) -> Line:
        """The same from the other end."""
        last, kept = self.stands.shape[1] - 1, self.place.shape[1] - 1
        return Line(place=last - self.place.flip(1), stands=kept - self.stands.flip(1))

    def cut(self, kept: Tensor, into: Tensor) -> Line:
        """After a cut that keeps [B,K'] of the tokens and lets kept token into[B,K] stand for each."""
        return Line(place=self.place.gather(1, kept), stands=into.gather(1, self.stands))


class VimReference:
    """A Vim of `demo/vim.py` with cuts.

    Args:
        weights: by the names of `vim.Vim`.
        alignment: of the decay in the blocks behind a cut.
        stand_ins: what of those blocks still sees the uncut sequence.
        halved: the two directions are averaged rather than added.
        place: index of the class token among all tokens; 'middle', or None where the head takes the mean.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        *,
        alignment: Alignment = "none",
        stand_ins: StandIns = "none",
        halved: bool = False,
        place: int | Literal["middle"] | None = "middle",
    ) -> None:
        self.w, self.alignment, self.halved, self.stand_ins = weights, alignment, halved, stand_ins
        self.depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        tokens = weights["positions"].shape[1]
        self.place = (tokens - 1) // 2 if place == "middle" else place

    def __call__(self, image: Tensor, cuts: Sequence[Cut] = ()) -> Tensor:
        """Logits [B,classes]."""
        stream, middle = self._embed(image), self.place
        line = Line.whole(*stream.shape[:2])
        size = torch.ones(stream.shape[:2], dtype=stream.dtype)
        by_block = {cut.block: cut for cut in cuts}
        assert self.stand_ins != "scan" or not any(cut.exact for cut in cuts), "either all places are scanned or not"
        for block in range(self.depth):
            cut, before = by_block.get(block), stream
            stream, seen = self._block(before, line, block, middle)
            if cut is None:
                continue
            index = cut.select(seen)
            source = before if cut.exact else stream
            into = (cut.into or look_alikes)(source, index, middle)
            stream = self._block(before, line, block, middle, index)[0] if cut.exact else _take(stream, index)
            if cut.merge:
                merged, size = merged_into(source, size, index, into)
                stream = stream + merged - _take(source, index) if cut.exact else merged
            else:
                size = size.gather(1, index)
            middle = None if middle is None else int((index[0] < middle).sum())
            line = line.cut(index, into)
        stream = self._norm(stream, "norm")
        mean = (stream * size[..., None]).sum(1) / size.sum(1, keepdim=True)
        pooled = mean if middle is None else stream[:, middle]
        return functional.linear(pooled, self.w["head.weight"], self.w["head.bias"])

    def _embed(self, image: Tensor) -> Tensor:
        kernel = self.w["patches.weight"]
        x = functional.conv2d(image, kernel, self.w["patches.bias"], stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
        if self.place is not None:
            token = self.w["class_token"].expand(len(x), -1, -1)
            x = torch.cat([x[:, : self.place], token, x[:, self.place :]], 1)
        return x + self.w["positions"]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * self.w[f"{name}.weight"]

    def _block(
        self, stream: Tensor, line: Line, block: int, middle: int | None, kept: Tensor | None = None
    ) -> tuple[Tensor, Seen]:
        """The stream behind a block; of the tokens `kept` only, if given, with their scan over them alone."""
        name = f"blocks.{block}"
        x, z = functional.linear(self._norm(stream, f"{name}.norm"), self.w[f"{name}.in_proj.weight"]).chunk(2, -1)
        ahead = self._direction(x, line, f"{name}.forwards")
        back = self._direction(x.flip(1), line.flipped(), f"{name}.backwards")
        delta = self._kept(ahead.delta, line) + self._kept(back.delta, line.flipped()).flip(1)
        if kept is not None:
            ahead = _exact(ahead, kept)
            back = _exact(back, stream.shape[1] - 1 - kept.flip(1))
            z, stream = _take(z, kept), _take(stream, kept)
        output = self._kept(scan(ahead), line) + self._kept(scan(back), line.flipped()).flip(1)
        y = output / 2 if self.halved else output
        after = stream + functional.linear(y * functional.silu(z), self.w[f"{name}.out_proj.weight"])
        return after, Seen(block=block, stream=after, output=output, delta=delta, place=line.place, middle=middle)

    def _kept(self, x: Tensor, line: Line) -> Tensor:
        """Of what runs over all places, the rows at the kept ones."""
        return _take(x, line.place) if self.stand_ins == "scan" else x

    def _direction(self, x: Tensor, line: Line, name: str) -> Operands:
        kernel = self.w[f"{name}.conv.weight"]
        x = x if self.stand_ins == "none" else _take(x, line.stands)
        padded = functional.pad(x.transpose(1, 2), (kernel.shape[-1] - 1, 0))
        mixed = functional.conv1d(padded, kernel, self.w[f"{name}.conv.bias"], groups=len(kernel))
        u = functional.silu(mixed.transpose(1, 2))
        u = _take(u, line.place) if self.stand_ins == "convolution" else u
        A, weight, bias = (
            -self.w[f"{name}.A_log"].exp(),
            self.w[f"{name}.dt_proj.weight"],
            self.w[f"{name}.dt_proj.bias"],
        )
        sizes = (weight.shape[1], A.shape[1], A.shape[1])
        low, B, C = functional.linear(u, self.w[f"{name}.x_proj.weight"]).split(sizes, -1)
        delta = functional.softplus(functional.linear(low, weight, bias))
        step = delta if self.stand_ins == "scan" else self._aligned(delta, line.place, functional.softplus(bias))
        return Operands(step=step, delta=delta, u=u, A=A, B=B, C=C, D=self.w[f"{name}.D"])

    def _aligned(self, delta: Tensor, place: Tensor, idle: Tensor) -> Tensor:
        """The decay step; the first token has no state before it that a gap could matter to."""
        gap = functional.pad(place[:, 1:] - place[:, :-1], (1, 0), value=1)[..., None].to(delta.dtype)
        if self.alignment == "gap":
            return gap * delta
        return delta + (gap - 1) * idle if self.alignment == "bias" else delta


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of [B,L,D] by [B,K]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def _exact(o: Operands, kept: Tensor) -> Operands:
    """The scan over kept tokens only; the removed ones' decay is added to that of the next kept one."""
    total = functional.pad(o.step.double().cumsum(1), (0, 0, 1, 0))
    ends = _take(total, kept + 1)
    step = torch.diff(ends, dim=1, prepend=torch.zeros_like(ends[:, :1])).to(o.step.dtype)
    u, delta, B, C = (_take(each, kept) for each in (o.u, o.delta, o.B, o.C))
    return Operands(step=step, delta=delta, u=u, A=o.A, B=B, C=C, D=o.D)


def look_alikes(stream: Tensor, kept: Tensor, middle: int | None) -> Tensor:
    """For each token [B,L] the kept patch token, as an index among the kept, that is most similar; itself if kept."""
    unit = functional.normalize(stream, dim=-1)
    alike = unit @ _take(unit, kept).transpose(1, 2)
    if middle is not None:
        alike = alike.masked_fill((kept == middle)[:, None], -torch.inf)
    return alike.argmax(-1).scatter(1, kept, torch.arange(kept.shape[1]).expand_as(kept))


def run_heads(stream: Tensor, kept: Tensor, middle: int | None) -> Tensor:
    """For each token [B,L] the last kept one that is not behind it, as an index among the kept."""
    del middle
    every = torch.arange(stream.shape[1])
    return (kept[:, None] <= every[None, :, None]).sum(-1) - 1


def merged_into(stream: Tensor, size: Tensor, kept: Tensor, into: Tensor) -> tuple[Tensor, Tensor]:
    """Kept tokens with the removed ones in them, [B,K+1,D], and their sizes."""
    weighted = functional.one_hot(into, kept.shape[1]).to(stream.dtype) * size[..., None]
    sizes = weighted.sum(1)
    return weighted.transpose(1, 2) @ stream / sizes[..., None], sizes


def runs(keep: int) -> Selection:
    """The selection of `keep` patch tokens that differ most from the one in front of them."""

    def score(seen: Seen) -> Tensor:
        changes = [(x[:, 1:] - x[:, :-1]).norm(dim=-1) for x in (seen.stream, seen.output)]
        values = functional.pad(changes[0] * changes[1], (1, 0))
        values[:, 0] = torch.inf
        if seen.middle is not None and seen.middle + 1 < values.shape[1]:
            values[:, seen.middle + 1] = torch.inf
        return values

    return best(score, keep)


def importance(seen: Seen, score: Score) -> Tensor:
    """[B,L]."""
    return seen.output.clamp(min=0).sum(-1) if score == "ssm-output" else seen.delta.mean(-1)


def best(score: Callable[[Seen], Tensor], keep: int) -> Selection:
    """The selection of `keep` patch tokens by a score [B,L], half on either side of the class token."""

    def select(seen: Seen) -> Tensor:
        values = score(seen)
        if seen.middle is None:
            return values.topk(keep, 1).indices.sort(1).values
        first, rest = values[:, : seen.middle], values[:, seen.middle + 1 :]
        # As many on either side; a side that has too few leaves them to the other.
        left = min(max(keep // 2, keep - rest.shape[1]), first.shape[1])
        parts = [
            first.topk(left, 1).indices.sort(1).values,
            torch.full((len(values), 1), seen.middle),
            rest.topk(keep - left, 1).indices.sort(1).values + seen.middle + 1,
        ]
        return torch.cat(parts, 1)

    return select
