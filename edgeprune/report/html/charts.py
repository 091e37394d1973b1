"""Charts as SVG, each a pure function of its numbers. Colours and type come from the page's style sheet.

All are drawn 440 wide, so that they stand one to one on a telephone and side by side on a screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgeprune.report.html.markup import Markup, el, join, number

WIDTH, HEIGHT = 440, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 6.0, 14.0, 34.0
_FLOOR = HEIGHT - _BOTTOM
_MOST_LABELS = 12


@dataclass(frozen=True, slots=True)
class Span:
    """A row of a chart of factors: the value, and the interval that it lies in if one is known."""

    name: str
    value: float
    low: float | None
    high: float | None
    hollow: bool
    note: str


def steps(dense: Sequence[float], pruned: Sequence[float], *, label: str, axis: str = "tokens") -> Markup:
    """Two staircases over the blocks: dense as a line, pruned as an area with its levels written on."""
    scale = _Scale(max([*dense, *pruned, 1]), max(len(dense), len(pruned), 1))
    area = f"M{number(_LEFT)} {number(_FLOOR)}{_staircase(pruned, scale, 'L')}V{number(_FLOOR)}Z"
    return _chart(
        label,
        scale.grid(axis),
        el("path", class_="line-dense", d=_staircase(dense, scale, "M")),
        el("path", class_="area-pruned", d=area) if pruned else None,
        el("path", class_="line-pruned", d=_staircase(pruned, scale, "M")),
        _levels(pruned, scale),
    )


def bars(dense: Sequence[float], pruned: Sequence[float], names: Sequence[str], *, label: str, axis: str) -> Markup:
    """Two bars a block, the pruned one narrow in front of the dense one, so that either may be the taller."""
    scale = _Scale(max([*dense, *pruned, 0]) or 1, max(len(dense), 1), tuple(names))
    shapes = []
    for i, (before, after) in enumerate(zip(dense, pruned, strict=True)):
        for kind, value, share in (("dense", before, 0.76), ("pruned", after, 0.38)):
            wide = scale.slot * share
            x, y = scale.x(i) + (scale.slot - wide) / 2, scale.y(value)
            shapes.append(el("rect", class_=f"bar-{kind}", x=x, y=y, width=wide, height=max(_FLOOR - y, 0.0)))
    return _chart(label, scale.grid(axis), *shapes)


def histogram(values: Sequence[float], *, label: str, axis: str) -> Markup:
    """How many samples lie where, with the median and the largest marked."""
    finite = sorted(value for value in values if math.isfinite(value))
    low, high, counts = binned(finite)
    scale = _Scale(max([*counts, 1]), len(counts), (), whole=True)
    shapes = [
        el(
            "rect",
            class_="bar-pruned",
            x=scale.x(i) + 0.5,
            y=scale.y(n),
            width=scale.slot - 1.0,
            height=_FLOOR - scale.y(n),
        )
        for i, n in enumerate(counts)
        if n
    ]
    median = finite[len(finite) // 2] if finite else low
    at = _LEFT + (WIDTH - _LEFT - _RIGHT) * ((median - low) / (high - low))
    marks = [el("line", class_="mark", x1=at, x2=at, y1=_TOP - 4, y2=_FLOOR)]
    marks += [_label(f"median {median:.3g}", at + 4 if at < WIDTH * 0.7 else at - 4, _TOP + 4, at < WIDTH * 0.7)]
    ends = [_text(f"{low:.3g}", _LEFT, _FLOOR + 13, "start"), _text(f"{high:.3g}", WIDTH - _RIGHT, _FLOOR + 13, "end")]
    caption = _text(axis, (WIDTH + _LEFT) / 2, HEIGHT - 4, "middle")
    return _chart(label, scale.lines("samples"), *shapes, *marks, *ends, caption)


def spans(rows: Sequence[Span], *, label: str) -> Markup:
    """Factors of several targets over one axis, with 1 as the line that parts gain from loss."""
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    low, high = min([*ends, 1.0]), max([*ends, 1.0])
    low, high = max(0.0, low - (high - low) * 0.08 - 0.02), high + (high - low) * 0.08 + 0.02
    tall, left, right = 36, 8.0, WIDTH - 8.0
    bottom = tall * len(rows) + 8.0

    def x(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    shapes: list[Markup] = []
    for i, row in enumerate(rows):
        shapes += _span(row, tall * i, x, left, right)
    ticks = [tick for tick in nice_ticks(high, 6) if low <= tick <= high]
    for tick in dict.fromkeys([*ticks, 1.0]):
        shapes.append(_text(f"{tick:g}x", x(tick), bottom + 13, _anchor(x(tick))))
    shapes.append(_text("of the dense model's speed", WIDTH / 2, bottom + 28, "middle"))
    return _chart(label, *shapes, height=bottom + 34)


def _span(row: Span, top: float, x: Callable[[float], float], left: float, right: float) -> list[Markup]:
    y = top + 26.0
    parts = [_text(row.name, left, top + 14, "start", "name"), _text(row.note, right, top + 14, "end")]
    parts.append(el("line", class_="mark", x1=x(1), x2=x(1), y1=y - 7, y2=y + 7))
    if row.low is not None and row.high is not None:
        parts.append(el("line", class_="whisker", x1=x(row.low), x2=x(row.high), y1=y, y2=y))
    kind = "dot-modelled" if row.hollow else "dot-measured"
    return [*parts, el("circle", class_=kind, cx=x(row.value), cy=y, r=4.5)]


def binned(values: Sequence[float]) -> tuple[float, float, list[int]]:
    """Count sorted values in equal bins: about as many as the square root of their number, 6 to 24."""
    if not values:
        return 0.0, 1.0, [0]
    low, high = values[0], values[-1]
    if high - low <= 1e-9 * max(abs(high), 1e-9):
        return low - (abs(low) * 0.5 or 0.5), high + (abs(high) * 0.5 or 0.5), [0, len(values), 0]
    bins = min(24, max(6, round(math.sqrt(len(values)))))
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    return low, high, counts


def nice_ticks(top: float, most: int = 4) -> list[float]:
    """Round numbers from 0 to `top`."""
    if not math.isfinite(top) or top <= 0:
        return [0.0]
    rough = top / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [step * i for i in range(int(top / step * 1.0001) + 1)]


class _Scale:
    """From blocks and values to places."""

    def __init__(self, top: float, slots: int, names: tuple[str, ...] | None = None, *, whole: bool = False) -> None:
        self.ticks = [t for t in nice_ticks(top) if not whole or t == int(t)]
        self.top = top * 1.04
        self.slots = slots
        self.slot = (WIDTH - _LEFT - _RIGHT) / slots
        self.names = tuple(map(str, range(slots))) if names is None else names

    def x(self, slot: float) -> float:
        return _LEFT + self.slot * slot

    def y(self, value: float) -> float:
        return _FLOOR - (_FLOOR - _TOP) * min(value, self.top) / self.top

    def lines(self, axis: str) -> Markup:
        made = [_text(axis, _LEFT - 6, _TOP - 5, "end" if len(axis) < 7 else "middle")]
        for tick in self.ticks:
            made.append(el("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=self.y(tick), y2=self.y(tick)))
            made.append(_text(short(tick), _LEFT - 6, self.y(tick) + 3.5, "end"))
        return join(made)

    def grid(self, axis: str) -> Markup:
        every = max(1, math.ceil(self.slots / _MOST_LABELS))
        shown = ((i, name) for i, name in enumerate(self.names) if i % every == 0)
        blocks = [_text(name, self.x(i) + self.slot / 2, _FLOOR + 13, "middle") for i, name in shown]
        return join([self.lines(axis), *blocks, _text("block", (WIDTH + _LEFT) / 2, HEIGHT - 4, "middle")])


def short(value: float) -> str:
    """A number on an axis: `1.2M`, `0.05`."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:g}"


def _staircase(values: Sequence[float], scale: _Scale, start: str) -> str:
    moves = [f"{start if not i else 'V'}{_corner(i, value, scale)}" for i, value in enumerate(values)]
    return "".join(moves)


def _corner(i: int, value: float, scale: _Scale) -> str:
    here = f"{number(scale.x(0))} {number(scale.y(value))}" if not i else number(scale.y(value))
    return f"{here}H{number(scale.x(i + 1))}"


def _levels(values: Sequence[float], scale: _Scale) -> Markup:
    """The height of each step; of a slope the first and the last, since the others would stand on each other."""
    starts = [i for i, value in enumerate(values) if not i or value != values[i - 1]]
    room = all(scale.slot * (after - before) > 28 for before, after in pairwise(starts))
    if room:
        return join(_level(values[i], scale.x(i) + 3, scale, start=True) for i in starts)
    first, last = starts[0], len(values) - 1
    ends = (
        _level(values[first], scale.x(first) + 3, scale, start=True),
        _level(values[last], scale.x(last + 1) - 3, scale, start=False),
    )
    return join(ends)


def _level(value: float, x: float, scale: _Scale, *, start: bool) -> Markup:
    below = scale.y(value) + 13
    return _label(f"{value:g}", x, below if below < _FLOOR - 2 else scale.y(value) - 5, start)


def _text(words: str, x: float, y: float, anchor: str, kind: str = "tick") -> Markup:
    return el("text", words, class_=kind, x=float(x), y=float(y), text_anchor=anchor)


def _label(words: str, x: float, y: float, start: bool) -> Markup:  # noqa: FBT001 (a side, inside this file)
    return _text(words, x, y, "start" if start else "end", "level")


def _anchor(x: float) -> str:
    if x < 20:
        return "start"
    return "end" if x > WIDTH - 20 else "middle"


def _chart(label: str, *parts: object, height: float = HEIGHT) -> Markup:
    return el(
        "svg", *parts, class_="chart", viewBox=f"0 0 {WIDTH} {number(height)}", role="img", aria_label=label,
        xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip
