"""Each strategy's choice in plain numpy, sample by sample, from its formula: what the emitted operators must compute.

Shapes: x [B,T,D]; k [B,H,T,Dh]; probs [B,H,T,T]; size [B,T]. Prefix tokens come first and always stay.
Every choice is (index [B,K'] ascending, matrix [B,K',T] or None, size [B,K'] or None) with K' = prefix + keep.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Choice(NamedTuple):
    """Which tokens go on, and as what."""

    index: np.ndarray
    matrix: np.ndarray | None = None
    size: np.ndarray | None = None


def best(scores: np.ndarray, keep: int) -> np.ndarray:
    """Positions of the highest scores of one sample, best first; of equal ones the first."""
    return np.argsort(-scores, kind="stable")[:keep]


def top(scores: np.ndarray, keep: int, prefix: int) -> np.ndarray:
    """Index [B,K'] of the highest patch scores [B,N]."""
    return np.stack([np.concatenate([np.arange(prefix), prefix + np.sort(best(row, keep))]) for row in scores])


def keep_all(tokens: int, batch: int) -> Choice:
    """Every token."""
    return Choice(np.tile(np.arange(tokens), (batch, 1)))


def uniform(tokens: int, batch: int, prefix: int, keep: int) -> Choice:
    """Evenly spaced patch tokens: the middles of `keep` equal parts."""
    spots = np.floor((np.arange(keep) + 0.5) * (tokens - prefix) / keep).astype(int)
    return Choice(np.tile(np.concatenate([np.arange(prefix), prefix + spots]), (batch, 1)))


def cls_topk(probs: np.ndarray, prefix: int, keep: int) -> Choice:
    """Attention that the class token (the first) pays, mean of the heads."""
    return Choice(top(probs[:, :, 0, prefix:].mean(1), keep, prefix))


def mean_attention(probs: np.ndarray, prefix: int, keep: int) -> Choice:
    """Attention received, mean of heads and of all queries."""
    return Choice(top(probs.mean((1, 2))[:, prefix:], keep, prefix))


def tome(k: np.ndarray, size: np.ndarray, prefix: int, keep: int) -> Choice:
    """Bipartite soft matching: even positions into odd ones, the most alike first, averaged by size.

    Tokens stay in the order of the stream (as published they would be even ones first, then odd ones).
    """
    B, _, T, _ = k.shape
    r = T - prefix - keep
    metric = unit(k.mean(1))
    even, odd = np.arange(0, T, 2), np.arange(1, T, 2)
    index, matrices = [], []
    for b in range(B):
        similarity = metric[b, even] @ metric[b, odd].T
        similarity[even < prefix] = -np.inf
        similarity[:, odd < prefix] = -np.inf
        order = best(similarity.max(1), r)
        groups = {int(t): [int(t)] for t in range(T)}
        for source in order:
            groups[int(odd[similarity[source].argmax()])].append(int(even[source]))
            del groups[int(even[source])]
        index.append(sorted(groups))
        matrices.append(_weighted(groups, size[b], T))
    matrix = np.stack(matrices)
    return Choice(np.array(index), matrix, np.einsum("bkt,bt->bk", (matrix != 0).astype(float), size))


def prune_merge(
    x: np.ndarray,
    probs: np.ndarray,
    size: np.ndarray,
    prefix: int,
    keep: int,
    pruned: int,
    *,
    plain: bool = False,
    scale: bool = True,
) -> Choice:
    """DiffRate: the `pruned` best by class attention survive; those beyond rank `keep` merge into those before.

    A merged token counts by its size times its similarity (`scale`); `plain`: as published, the mean of the values
    counts all alike, and only sizes are scaled.
    """
    B, T, _ = x.shape
    direction = unit(x)
    index, matrices, sizes = [], [], []
    for b in range(B):
        ranked = prefix + best(probs[b, :, 0, prefix:].mean(0), pruned)
        stay, go = ranked[:keep], ranked[keep:]
        groups = {int(t): [int(t)] for t in (*range(prefix), *stay)}
        share = size[b].astype(np.float64).copy()
        for source in go:
            similarity = direction[b, stay] @ direction[b, source]
            groups[int(stay[similarity.argmax()])].append(int(source))
            share[source] *= similarity.max() if scale else 1.0
        index.append(sorted(groups))
        matrices.append(_weighted(groups, np.ones(T) if plain else share, T))
        sizes.append([share[groups[t]].sum() for t in sorted(groups)])
    return Choice(np.array(index), np.stack(matrices), np.array(sizes))


def ward_merge(
    x: np.ndarray, k: np.ndarray, probs: np.ndarray, size: np.ndarray, prefix: int, keep: int, *, floor: float = 1.0
) -> Choice:
    """Each token may go into any that weighs more; those go that lose least by Ward's criterion, down to their root."""
    B, T, _ = x.shape
    keys = unit(k.transpose(0, 2, 1, 3).reshape(B, T, -1))
    index, matrices, sizes = [], [], []
    for b in range(B):
        weight = np.ones(T)
        row = probs[b, :, 0, prefix:].mean(0)
        weight[prefix:] = row * size[b, prefix:].sum() + floor * size[b, prefix:]
        partner, loss = {}, {}
        for i in range(prefix, T):
            costs = {}
            for j in range(prefix, T):
                if weight[j] > weight[i] or (weight[j] == weight[i] and j < i):
                    costs[j] = (1 - keys[b, i] @ keys[b, j]) * weight[i] * weight[j] / (weight[i] + weight[j])
            if costs:
                partner[i] = min(costs, key=lambda j: costs[j])
                loss[i] = costs[partner[i]]
        going = set(sorted(loss, key=lambda i: loss[i])[: T - prefix - keep])
        groups = {i: [i] for i in range(T) if i not in going}
        for i in going:
            root = partner[i]
            while root in going:
                root = partner[root]
            groups[root].append(i)
        index.append(sorted(groups))
        matrices.append(_weighted(groups, size[b], T))
        sizes.append([size[b, groups[i]].sum() for i in sorted(groups)])
    return Choice(np.array(index), np.stack(matrices), np.array(sizes))


def k_centre(x: np.ndarray, prefix: int, keep: int, *, rounds: int = 4) -> Choice:
    """Evenly spaced tokens, then in each round those whose nearest chosen one is farthest."""
    streams, index = unit(x[:, prefix:]), []
    step = keep // rounds
    for tokens in streams:
        first = keep - step * (rounds - 1)
        chosen = [int((i + 0.5) * len(tokens) / first) for i in range(first)]
        for _ in range(rounds - 1):
            near = {i: max(tokens[i] @ tokens[j] for j in chosen) for i in range(len(tokens)) if i not in chosen}
            chosen += sorted(near, key=lambda i: near[i])[:step]
        index.append([*range(prefix), *(prefix + i for i in sorted(chosen))])
    return Choice(np.array(index))


def grid_cluster(
    x: np.ndarray,
    size: np.ndarray,
    prefix: int,
    keep: int,
    places: np.ndarray | None,
    starts: list[int],
    *,
    rounds: int = 3,
    locality: float = 0.003,
) -> Choice:
    """Soft k-means on cosines from given starts; every other token goes to its nearest centroid."""
    B, T, _ = x.shape
    index, matrices, sizes = [], [], []
    for b in range(B):
        tokens = unit(x[b, prefix:])
        far = np.zeros((T - prefix, keep))
        if places is not None:
            far = ((places[:, None] - places[starts][None]) ** 2).sum(-1)
        centres = tokens[starts]
        for _ in range(rounds):
            logits = (tokens @ unit(centres).T - locality * far) / 0.02
            shares = np.exp(logits - logits.max(1, keepdims=True))
            centres = (shares / shares.sum(1, keepdims=True)).T @ tokens
        nearest = (tokens @ unit(centres).T - locality * far).argmax(1)
        groups = {i: [i] for i in (*range(prefix), *(prefix + s for s in starts))}
        for i in set(range(T - prefix)) - set(starts):
            groups[prefix + starts[nearest[i]]].append(prefix + i)
        index.append(sorted(groups))
        matrices.append(_weighted(groups, size[b], T))
        sizes.append([size[b, groups[i]].sum() for i in sorted(groups)])
    return Choice(np.array(index), np.stack(matrices), np.array(sizes))


def lengthening(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """[B,K',1] mean length of a group's members over the length of their mean."""
    lengths = matrix @ np.linalg.norm(x, axis=-1, keepdims=True)
    return np.asarray(lengths / np.linalg.norm(matrix @ x, axis=-1, keepdims=True))


def zero_tprune(probs: np.ndarray, k: np.ndarray, prefix: int, keep: int, *, drop: int, votes: int) -> Choice:
    """Importance by one vote, `drop` tokens by similarity, then the rest by `votes` votes among the survivors."""
    B, _, T, _ = probs.shape
    N = T - prefix
    keys = unit(k.transpose(0, 2, 1, 3).reshape(B, T, -1))
    index = []
    for b in range(B):
        alive = np.ones(T)
        if drop:
            order = prefix + best(importance(probs[b], alive, prefix, 1), N)
            better, worse = order[: N - N // 2], order[N - N // 2 :]
            alike = (keys[b, worse] @ keys[b, better].T).max(1)
            alive[worse[best(alike, drop)]] = 0
        scores = np.where(alive[prefix:] > 0, importance(probs[b], alive, prefix, votes), -np.inf)
        index.append(top(scores[None], keep, prefix)[0])
    return Choice(np.array(index))


def importance(probs: np.ndarray, alive: np.ndarray, prefix: int, votes: int) -> np.ndarray:
    """[N] votes that travelled along attention [H,T,T]; root mean square of the heads that pass the filter.

    The class token starts with sqrt(N) votes. Scores are scaled to mean 1 over the patch tokens alive, for which the
    filter's bounds on their variance, 0.01 and 0.7, are meant.
    """
    start, patches, heads = np.ones(len(alive)), alive[prefix:] > 0, []
    if prefix:
        start[0] = np.sqrt(len(alive) - prefix)
    for attention in probs:
        s = start * alive
        for _ in range(votes):
            s = (s @ attention) * alive
            s = s / s.sum()
        heads.append(s[prefix:] / s[prefix:][patches].mean())
    chosen = [s for s in heads if 0.01 <= np.var(s[patches]) <= 0.7] or heads
    return np.asarray(np.sqrt(np.mean(np.square(chosen), axis=0)))


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors of length one along the last axis."""
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def _weighted(groups: dict[int, list[int]], weights: np.ndarray, tokens: int) -> np.ndarray:
    matrix = np.zeros((len(groups), tokens))
    for row, target in enumerate(sorted(groups)):
        matrix[row, groups[target]] = weights[groups[target]]
    return np.asarray(matrix / matrix.sum(1, keepdims=True))
