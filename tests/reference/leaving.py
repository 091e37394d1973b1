"""Which tokens leave an encoder, in PyTorch, image by image, from each strategy's formula; nothing of ours is imported.

Loops and sets in the place of what the compiler writes: a quota is counted out seat by seat, a max-min choice keeps the
set of what was chosen, a merge adds up lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """What one run of a tower shows, in fp32.

    q, k [B,H,T,Dh] of the last block before the read-out (k as it meets q, both unscaled); x [B,T,D] what the projector
    reads, prefix tokens first; grid rows and columns of patches.
    """

    q: Tensor
    k: Tensor
    x: Tensor
    prefix: int
    grid: tuple[int, int]
    scale: float

    @property
    def probs(self) -> Tensor:
        return torch.softmax(self.q @ self.k.transpose(-1, -2) * self.scale, dim=-1)


@dataclass(frozen=True)
class Leaving:
    """Patches in ascending order [B,K]; `x` [B,K,D] where tokens are merged; `gap` how far the choice is from a tie."""

    kept: Tensor
    x: Tensor
    gap: float


def attention(seen: Seen, score: str, threshold: float = 1.0) -> Tensor:
    """What each patch receives, [B,N]."""
    probs = seen.probs
    if score == "auto":
        score = "class-row" if seen.prefix else "column-mean"
    if score == "class-row":
        return probs[:, :, 0, seen.prefix :].mean(1)
    heads = probs.mean(1)
    columns = heads.mean(1)
    if score == "global-queries":
        chosen = [c > threshold * c.mean() for c in columns]
        columns = torch.stack([a[c if c.any() else slice(None)].mean(0) for a, c in zip(heads, chosen, strict=True)])
    return columns[:, seen.prefix :]


def fopru_rank(seen: Seen, keep: int, score: str = "auto", threshold: float = 1.0) -> Leaving:
    """The K highest."""
    return _of_each(seen, attention(seen, score, threshold), lambda s: _best(s, keep))


def fopru_row(seen: Seen, keep: int, score: str = "auto", threshold: float = 1.0) -> Leaving:
    """The rows with the highest sums; of the lowest of them its start, where not all of it is kept."""
    rows, columns = seen.grid

    def choose(scores: Tensor) -> tuple[list[int], float]:
        sums = scores.reshape(rows, columns).sum(1)
        best, gap = _best(sums, -(-keep // columns))
        tokens = [row * columns + column for row in best for column in range(columns)]
        last = min(best, key=lambda row: float(sums[row]))
        whole = [token for token in tokens if token // columns != last]
        return sorted([*whole, *(last * columns + column for column in range(keep - len(whole)))]), gap

    return _of_each(seen, attention(seen, score, threshold), choose)


def divprune(seen: Seen, keep: int) -> Leaving:
    """Greedy max-min of cosine distances; the first is the one whose nearest neighbour is farthest."""
    return _of_each(seen, seen.x[:, seen.prefix :], lambda x: _spread(x, keep))


def _spread(x: Tensor, keep: int) -> tuple[list[int], float]:
    x = torch.nn.functional.normalize(x, dim=-1)
    distance = 1 - x @ x.T
    patches = len(x)
    nearest = distance.masked_fill(torch.eye(patches, dtype=torch.bool), torch.inf).amin(1)
    chosen: list[int] = []
    gap = torch.inf
    while len(chosen) < keep:
        far = nearest if not chosen else distance[:, chosen].amin(1)
        free = [i for i in range(patches) if i not in chosen]
        order = sorted(free, key=lambda i: -float(far[i]))
        gap = min(gap, float(far[order[0]] - far[order[1]]) if len(order) > 1 else gap)
        chosen.append(order[0])
    return chosen, gap


def holov(
    seen: Seen, keep: int, crops: int = 16, alpha: float = 0.09, score: str = "auto", threshold: float = 1.0
) -> Leaving:
    """Seats for contiguous crops by the rule of Webster, one after another; in a crop the best by attention."""
    received = attention(seen, score, threshold)
    x = torch.nn.functional.normalize(seen.x[:, seen.prefix :], dim=-1)
    parts = torch.arange(x.shape[1]).tensor_split(crops)

    def choose(pair: tuple[Tensor, Tensor]) -> tuple[list[int], float]:
        a, tokens = pair
        varied = torch.cat([(tokens[p] @ tokens[p].T).var(dim=1, unbiased=False) for p in parts])
        scores = a + alpha * varied * a.mean() / varied.mean()
        weights = [float(scores[p].mean()) for p in parts]
        seats, gap = [0] * len(parts), torch.inf
        for _ in range(keep):
            claims = [w / (s + 0.5) if s < len(p) else -1.0 for w, s, p in zip(weights, seats, parts, strict=True)]
            seats[max(range(len(parts)), key=claims.__getitem__)] += 1
        last = [w / (s - 0.5) for w, s in zip(weights, seats, strict=True) if s]
        following = [w / (s + 0.5) for w, s, p in zip(weights, seats, parts, strict=True) if s < len(p)]
        gap = (min(last) - max(following, default=0.0)) / max(weights)
        chosen: list[int] = []
        for part, count in zip(parts, seats, strict=True):
            if count:
                best, apart = _best(a[part], count)
                gap = min(gap, apart)
                chosen += [int(part[0]) + i for i in best]
        return chosen, gap

    return _of_each(seen, list(zip(received, x, strict=True)), choose)


def visionzip(
    seen: Seen, keep: int, contextual: float = 0.15625, score: str = "auto", threshold: float = 1.0
) -> Leaving:
    """Dominant tokens by attention; every other one goes to the target with the most similar keys, and is averaged."""
    targets = min(max(1, round(contextual * keep)), keep - 1)
    scores = attention(seen, score, threshold)
    found = [_zipped(seen, b, scores[b], keep - targets, targets) for b in range(len(scores))]
    kept, rows, gaps = zip(*found, strict=True)
    return Leaving(torch.tensor(kept), torch.stack(rows), min(gaps))


def _zipped(seen: Seen, b: int, scores: Tensor, dominant: int, targets: int) -> tuple[list[int], Tensor, float]:
    best, gap = _best(scores, dominant)
    rest = [i for i in range(len(scores)) if i not in best]
    spots = [j * len(rest) // targets for j in range(targets)]
    centres = [rest[s] for s in spots]
    keys = seen.k[b].transpose(0, 1).flatten(1)[seen.prefix :]
    keys = torch.nn.functional.normalize(keys, dim=-1)
    groups: dict[int, list[int]] = {i: [i] for i in (*best, *centres)}
    for i in (rest[s] for s in range(len(rest)) if s not in spots):
        alike = [float(keys[i] @ keys[c]) for c in centres]
        order = sorted(alike, reverse=True)
        gap = min(gap, order[0] - order[1] if targets > 1 else gap)
        groups[centres[alike.index(order[0])]].append(i)
    kept = sorted(groups)
    x = seen.x[b, seen.prefix :]
    return kept, torch.stack([x[groups[i]].mean(0) for i in kept]), gap


def _best(scores: Tensor, keep: int) -> tuple[list[int], float]:
    """Positions of the highest, and by how much the last is above the next, relative to the highest."""
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    gap = (
        float((scores[order[keep - 1]] - scores[order[keep]]) / scores.abs().max()) if keep < len(order) else torch.inf
    )
    return order[:keep], gap


def _of_each(seen: Seen, images: object, choose: Callable[..., tuple[list[int], float]]) -> Leaving:
    found = [choose(image) for image in images]  # type: ignore[attr-defined]
    kept = torch.tensor([sorted(chosen) for chosen, _ in found])
    rows = torch.gather(seen.x[:, seen.prefix :], 1, kept[..., None].expand(-1, -1, seen.x.shape[-1]))
    return Leaving(kept, rows, min(gap for _, gap in found))


STRATEGIES: dict[str, Callable[..., Leaving]] = {
    "fopru-rank": fopru_rank,
    "fopru-row": fopru_row,
    "divprune": divprune,
    "visionzip": visionzip,
    "holov": holov,
}
