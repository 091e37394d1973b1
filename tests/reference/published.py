"""Token reductions as they were published, in PyTorch, for `deit_torch`. Written from the papers' formulas.

Sources: ToMe (Bolya et al., ICLR 2023), DiffRate (Chen et al., ICCV 2023), EViT (Liang et al., ICLR 2022, without the
fused token), Zero-TPrune (Wang et al., CVPR 2024; votes, order and rates as its authors give them, filter guarded).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from reference.deit_torch import Reduction, Seen

# DiffRate's learned schedule of DeiT-S at 2.9 G: tokens after pruning and after merging, class token counted.
DIFFRATE_DEIT_S = (
    (197, 196, 190, 168, 150, 139, 129, 117, 99, 78, 58, 3),
    (197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3),
)


def rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """x [B,T,...] at index [B,K]."""
    shape = index.shape + x.shape[2:]
    return x.gather(1, index.reshape(index.shape + (1,) * (x.ndim - 2)).expand(shape))


def keep_best(seen: Seen, scores: torch.Tensor, keep: int, prefix: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """The `keep` patch tokens with the highest scores [B,N], in their order, after the prefix tokens."""
    best = scores.topk(keep, dim=1).indices.sort(dim=1).values + prefix
    index = torch.cat([torch.arange(prefix).expand(len(best), -1), best], dim=1)
    return rows(seen.x, index), rows(seen.size, index)


def by_score(score: str, keep: Mapping[int, int], seed: int = 0) -> Reduction:
    """Keep `keep[block]` patch tokens by 'class', 'mean', 'uniform' or 'random' score."""
    generator = torch.Generator().manual_seed(seed)

    def scores(seen: Seen, count: int) -> torch.Tensor:
        B, N = seen.x.shape[0], seen.x.shape[1] - 1
        if score == "class":
            return seen.probs[:, :, 0, 1:].mean(1)
        if score == "mean":
            return seen.probs.mean((1, 2))[:, 1:]
        if score == "random":
            return torch.rand(B, N, generator=generator)
        chosen = torch.zeros(N)
        chosen[((torch.arange(count) + 0.5) * N / count).long()] = 1
        return chosen.expand(B, N)

    def reduce(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        if seen.block not in keep:
            return seen.x, seen.size
        return keep_best(seen, scores(seen, keep[seen.block]), keep[seen.block])

    return reduce


def tome(merged: int | Sequence[int]) -> Reduction:
    """ToMe: in every block the r most similar pairs across an alternating partition are averaged, by size."""

    def reduce(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        r = merged if isinstance(merged, int) else merged[seen.block]
        T = seen.x.shape[1]
        r = min(r, (T - 1) // 2)
        if r <= 0:
            return seen.x, seen.size
        metric = torch.nn.functional.normalize(seen.k.mean(1), dim=-1)
        scores = metric[:, ::2] @ metric[:, 1::2].transpose(-1, -2)
        scores[:, 0] = -torch.inf  # the class token is never merged away
        best, partner = scores.max(-1)
        order = best.argsort(dim=-1, descending=True)
        sources, untouched = order[:, :r], order[:, r:].sort(dim=1).values
        target = partner.gather(1, sources)

        def merge(value: torch.Tensor) -> torch.Tensor:
            even, odd = value[:, ::2], value[:, 1::2].clone()
            odd.scatter_add_(1, target[..., None].expand(-1, -1, value.shape[-1]), rows(even, sources))
            return torch.cat([rows(even, untouched), odd], dim=1)

        size = merge(seen.size[..., None])
        return merge(seen.x * seen.size[..., None]) / size, size[..., 0]

    return reduce


def diffrate(pruned: Sequence[int], merged: Sequence[int]) -> Reduction:
    """DiffRate's forward: rank by class attention, drop the last, merge the middle into the first, most alike."""

    def reduce(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        p, m = pruned[seen.block], merged[seen.block]
        ranked = seen.probs[:, :, 0, 1:].mean(1).argsort(dim=-1, descending=True) + 1
        order = torch.cat([torch.zeros(len(ranked), 1, dtype=torch.long), ranked], dim=1)[:, :p]
        x, size = rows(seen.x, order), rows(seen.size, order)
        if m >= x.shape[1]:
            return x, size
        unit = torch.nn.functional.normalize(x, dim=-1)
        similarity = unit[:, m:] @ unit[:, :m].transpose(-1, -2)
        similarity[..., 0] = -torch.inf  # nothing is merged into the class token
        alike, target = similarity.max(-1)
        wide = target[..., None].expand(-1, -1, x.shape[-1])
        mean = x[:, :m].scatter_reduce(1, wide, x[:, m:], reduce="mean", include_self=True)
        return mean, size[:, :m].scatter_add(1, target, size[:, m:] * alike)

    return reduce


def zero_tprune(rate: Mapping[int, float], votes: Mapping[int, int], drop: Mapping[int, int]) -> Reduction:
    """Zero-TPrune: one vote for importance, drop `drop` tokens by similarity, then keep `rate` of the rest by votes."""

    def reduce(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        b = seen.block
        if b not in rate:
            return seen.x, seen.size
        B, T, N = len(seen.x), seen.x.shape[1], seen.x.shape[1] - 1
        start = torch.ones(T)
        start[0] = N**0.5
        alive = torch.ones(B, T, dtype=torch.bool)
        if drop[b]:
            first = vote(seen.probs, start.expand(B, T), alive, 1)[:, 1:]
            order = first.argsort(dim=-1, descending=True) + 1
            better, worse = order[:, : N - N // 2], order[:, N - N // 2 :]
            unit = torch.nn.functional.normalize(seen.k.transpose(1, 2).flatten(2), dim=-1)
            alike = (rows(unit, worse) @ rows(unit, better).transpose(-1, -2)).amax(-1)
            gone = worse.gather(1, alike.topk(drop[b], dim=1).indices)
            alive.scatter_(1, gone, value=False)
        scores = vote(seen.probs, start.expand(B, T), alive, votes[b])[:, 1:]
        scores = scores.masked_fill(~alive[:, 1:], -torch.inf)
        return keep_best(seen, scores, int(rate[b] * (N - drop[b])))

    return reduce


def vote(probs: torch.Tensor, start: torch.Tensor, alive: torch.Tensor, rounds: int) -> torch.Tensor:
    """Importance [B,T]: votes travel along attention among the tokens alive; root mean square of the heads left."""
    mask = alive[:, None].to(probs.dtype)
    s = (start[:, None] * mask).expand(-1, probs.shape[1], -1)
    for _ in range(rounds):
        s = torch.einsum("bhq,bhqk->bhk", s, probs) * mask
        s = s / s.sum(-1, keepdim=True)
    count = mask[..., 1:].sum(-1, keepdim=True)
    z = s / (s[..., 1:].sum(-1, keepdim=True) / count)  # mean 1 over the patches alive, as the bounds want
    spread = ((z[..., 1:] - 1).square() * mask[..., 1:]).sum(-1) / count[..., 0]
    kept = ((spread >= 0.01) & (spread <= 0.7)).to(z.dtype)
    kept = torch.where(kept.sum(1, keepdim=True) > 0, kept, torch.ones_like(kept))
    return ((z.square() * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)).sqrt()
