"""Maps of what became of the tokens of a sample: kept, merged into a group, dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from edgeprune.core.results import CutMap, TokenMap
from edgeprune.report.html.markup import Markup, el
from edgeprune.report.html.pictures import Pictures

# Hues of merged groups; neighbours in this list are far apart, and neighbouring groups seldom share one.
HUES = 8


def token_map(sample: TokenMap, pictures: Pictures) -> Markup:
    """One sample: as the model saw it, then after each cut."""
    first = _cell(_picture(sample, pictures), "input") if sample.image in pictures else None
    cells = [_cell(_overlay(sample, cut, pictures), _after(cut)) for cut in sample.cuts]
    title = el("figcaption", el("strong", sample.sample), f" {sample.rows} x {sample.columns} patches")
    return el("figure", title, el("div", first, *cells, class_="maps"), class_="sample")


def tally(owners: Sequence[int]) -> tuple[int, int, int]:
    """How many patches were kept, merged into another, dropped."""
    kept = sum(owner == i for i, owner in enumerate(owners))
    dropped = sum(owner < 0 for owner in owners)
    return kept, len(owners) - kept - dropped, dropped


def _after(cut: CutMap) -> str:
    kept, merged, dropped = tally(cut.owners)
    parts = [f"{kept} kept", f"{merged} merged" if merged else "", f"{dropped} dropped" if dropped else ""]
    where = f"block {cut.block}" if cut.block >= 0 else "output"
    return f"{where}: " + ", ".join(part for part in parts if part)


def _cell(picture: Markup, words: str) -> Markup:
    return el("div", picture, el("span", words))


def _picture(sample: TokenMap, pictures: Pictures) -> Markup:
    image = pictures.use(sample.image, sample.columns, sample.rows)
    return _grid(sample, f"{sample.sample} as the model sees it", image)


def _overlay(sample: TokenMap, cut: CutMap, pictures: Pictures) -> Markup:
    image = pictures.use(sample.image, sample.columns, sample.rows)
    if image is None:
        image = el("rect", class_="tile", width=sample.columns, height=sample.rows)
    groups = Counter(owner for owner in cut.owners if owner >= 0)
    joined = [owner if owner >= 0 and groups[owner] > 1 else None for owner in cut.owners]
    colours = _colours(joined, sample.columns)
    layers = [el("path", class_="dropped", d=_cells((owner < 0 for owner in cut.owners), sample.columns))]
    for hue in range(HUES):
        inside = _cells((owner is not None and colours[owner] == hue for owner in joined), sample.columns)
        layers.append(el("path", class_=f"hue-{hue}", d=inside))
    layers.append(el("path", class_="seam", d=_seams(cut.owners, joined, sample.columns)))
    return _grid(sample, f"{sample.sample} after {_after(cut)}", image, *layers)


def _grid(sample: TokenMap, label: str, *layers: object) -> Markup:
    box = f"0 0 {sample.columns} {sample.rows}"
    return el("svg", *layers, class_="map", viewBox=box, role="img", aria_label=label)


def _cells(chosen: Iterable[bool], columns: int) -> str:
    """A path around the chosen cells, neighbours in a row joined."""
    parts: list[str] = []
    start = -1
    flags = [*chosen, False]
    for i, here in enumerate(flags):
        breaks = start >= 0 and (not here or i % columns == 0)
        if breaks:
            parts.append(f"M{start % columns} {start // columns}h{i - start}v1h-{i - start}z")
            start = -1
        if here and start < 0:
            start = i
    return "".join(parts)


def _colours(joined: Sequence[int | None], columns: int) -> dict[int, int]:
    """A hue for every group, other than its neighbours' as far as there are hues."""
    near: dict[int, set[int]] = {}
    for i, owner in enumerate(joined):
        if owner is None:
            continue
        mine = near.setdefault(owner, set())
        for j in (i - 1 if i % columns else -1, i - columns):
            other = joined[j] if j >= 0 else None
            if other is not None and other != owner:
                mine.add(other)
                near[other].add(owner)
    colours: dict[int, int] = {}
    for owner, others in near.items():
        taken = {colours[other] for other in others if other in colours}
        free = [hue for hue in range(HUES) if hue not in taken]
        colours[owner] = free[owner % len(free)] if free else owner % HUES
    return colours


def _seams(owners: Sequence[int], joined: Sequence[int | None], columns: int) -> str:
    """Lines between groups."""
    parts = []
    for i, owner in enumerate(owners):
        right, below = i + 1, i + columns
        x, y = i % columns, i // columns
        if right % columns and owners[right] != owner and (joined[i] is not None or joined[right] is not None):
            parts.append(f"M{x + 1} {y}v1")
        if below < len(owners) and owners[below] != owner and (joined[i] is not None or joined[below] is not None):
            parts.append(f"M{x} {y + 1}h1")
    return "".join(parts)
