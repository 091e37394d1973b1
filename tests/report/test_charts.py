"""Charts: places follow from numbers, and no number breaks them."""

from __future__ import annotations

import math
import re

import pytest

from edgeprune.report.html.charts import Span, bars, binned, histogram, nice_ticks, short, spans, steps


def rects(svg, kind):
    found = re.findall(rf'<rect class="{kind}" x="([\d.-]+)" y="([\d.-]+)" width="([\d.-]+)" height="([\d.-]+)"', svg)
    return [tuple(map(float, each)) for each in found]


def test_bars_are_as_tall_as_their_numbers():
    svg = bars([100, 100], [50, 120], ("0", "1"), label="x", axis="MACs")
    dense, pruned = rects(svg, "bar-dense"), rects(svg, "bar-pruned")
    assert pruned[0][3] / dense[0][3] == pytest.approx(0.5, abs=0.01)
    assert pruned[1][3] / dense[1][3] == pytest.approx(1.2, abs=0.01)
    assert dense[0][0] < pruned[0][0] < dense[1][0]
    bottoms = {y + height for _, y, _, height in (*dense, *pruned)}
    assert max(bottoms) - min(bottoms) < 0.2  # one floor, to the rounding of a coordinate


def test_steps_go_down_where_tokens_are_cut():
    svg = steps([197] * 4, [197, 197, 121, 60], label="x")
    assert re.findall(r'class="level"[^>]*>(\d+)<', svg) == ["197", "121", "60"]
    (path,) = re.findall(r'class="line-pruned" d="([^"]+)"', svg)
    heights = [float(y) for y in re.findall(r"V([\d.]+)", path)]
    assert heights == sorted(heights)
    assert path.count("H") == 4


def levels(tokens):
    return re.findall(r'class="level"[^>]*>(\d+)<', steps([200] * len(tokens), tokens, label="x"))


def test_of_a_slope_only_the_ends_are_written_on():
    assert levels([200 - 3 * i for i in range(48)]) == ["200", "59"]
    assert levels([200, 190, *[190] * 10]) == ["200", "190"]
    assert levels([200] * 48) == ["200"]
    assert levels([7]) == ["7"]


def test_no_block_at_all_is_an_empty_chart():
    assert "<svg" in steps([], [], label="x")


def test_a_histogram_counts_every_sample():
    values = [i / 100 for i in range(100)]
    low, high, counts = binned(values)
    assert (low, high, sum(counts), len(counts)) == (0.0, 0.99, 100, 10)
    assert len(rects(histogram(values, label="x", axis="error"), "bar-pruned")) == 10


@pytest.mark.parametrize("values", [[], [0.0], [0.3, 0.3, 0.3], [float("nan"), float("inf"), 0.1]])
def test_a_histogram_of_little(values):
    svg = histogram(values, label="x", axis="error")
    assert "nan" not in svg
    assert "inf" not in svg.replace("class", "")
    low, high, counts = binned(sorted(v for v in values if math.isfinite(v)))
    assert low < high
    assert sum(counts) == len([v for v in values if 0 <= v < 1])


def test_gain_stands_right_of_one_and_loss_left():
    rows = [Span("a", 0.7, 0.6, 0.8, True, ""), Span("b", 1.4, None, None, False, "")]
    svg = spans(rows, label="x")
    one = float(re.findall(r'class="mark" x1="([\d.]+)"', svg)[0])
    modelled = float(re.findall(r'class="dot-modelled" cx="([\d.]+)"', svg)[0])
    measured = float(re.findall(r'class="dot-measured" cx="([\d.]+)"', svg)[0])
    assert modelled < one < measured
    (whisker,) = re.findall(r'class="whisker" x1="([\d.]+)" x2="([\d.]+)"', svg)
    assert float(whisker[0]) < modelled < float(whisker[1])


@pytest.mark.parametrize("factor", [0.0, 1e-9, 1.0, 1e6])
def test_any_factor_can_be_drawn(factor):
    places = [
        float(x)
        for x in re.findall(r'c?x[12]?="([\d.-]+)"', spans([Span("a", factor, None, None, True, "")], label="x"))
    ]
    assert all(0 <= place <= 440 for place in places)


@pytest.mark.parametrize(
    ("top", "ticks"),
    [
        (197, [0, 50, 100, 150]),
        (1, [0, 0.25, 0.5, 0.75, 1]),
        (0, [0]),
        (float("inf"), [0]),
        (0.037, [0, 0.01, 0.02, 0.03]),
    ],
)
def test_ticks_are_round(top, ticks):
    assert nice_ticks(top) == pytest.approx(ticks)


def test_numbers_on_an_axis_are_short():
    assert [short(v) for v in (0, 0.05, 3 * 0.05, 1000, 25_000, 75e6, 1.5e9)] == [
        "0",
        "0.05",
        "0.15",
        "1000",
        "25k",
        "75M",
        "1.5G",
    ]
