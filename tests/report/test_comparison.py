"""Reports side by side: the same rows on the terminal and on the page, and a word where numbers do not compare."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from edgeprune.report.comparison import Comparison, Entry
from edgeprune.report.comparison_terminal import render_comparison
from edgeprune.report.html import render_comparison_html


@pytest.fixture
def comparison(report) -> Comparison:
    smaller = replace(
        report,
        budget=replace(report.budget, keep=0.5, macs=0.5),
        strategy=replace(report.strategy, name="cls-topk"),
        latency=(replace(report.latency[0], pruned_p50_ms=0.3, speedup=1.73),),
    )
    return Comparison(entries=(Entry(name="a", report=report), Entry(name="b", report=smaller)))


def test_what_is_compared(comparison):
    rows = dict(comparison.rows())
    assert rows["strategy"] == ("tome", "cls-topk")
    assert rows["keep"] == ("0.742", "0.500")
    assert rows["same class"] == ("95.2 %", "95.2 %")
    assert rows["rtx-4090, modelled ms"] == ("0.520 to 0.361, 1.44x", "0.520 to 0.300, 1.73x")
    assert rows["this machine, measured ms"] == ("30.000 to 20.000, 1.50x", "-")
    assert "rtx-4090, measured ms" not in rows  # nobody has it
    assert comparison.notes() == ()


def changed(comparison, **changes):
    first, second = comparison.entries
    return Comparison(entries=(first, Entry(name="b", report=replace(second.report, **changes))))


def test_different_models_do_not_compare(comparison, report):
    other = changed(comparison, model=replace(report.model, sha256="cd" * 32))
    assert other.notes() == ("these are different models: accuracy, MACs and latency do not compare",)


def test_different_samples_and_precisions_are_said(comparison, report):
    other = changed(
        comparison,
        validation=replace(report.validation, samples=50),
        plan=replace(report.plan, precision="fp16"),
    )
    assert other.notes() == (
        "drift was measured on different samples or against different references",
        "the precisions differ: a fp32, b fp16",
    )


def test_the_terminal_and_the_page_show_the_same(comparison, report):
    other = changed(comparison, model=replace(report.model, sha256="cd" * 32))
    console = Console(file=io.StringIO(), width=200, highlight=False)
    console.print(render_comparison(other))
    page = render_comparison_html(other).replace("\u00a0", " ")
    for name, cells in other.rows():
        for word in (name, *cells):
            assert word in console.file.getvalue()
            assert word in page
    for entry in other.entries:
        assert entry.verdict.summary in page
    assert "warning these are different models" in console.file.getvalue()
    assert "these are different models" in page
    assert page.count('class="line-pruned"') == 2


def test_names_are_no_markup(report):
    two = Comparison(entries=(Entry(name="<script>", report=report), Entry(name="[b]", report=report)))
    assert "<script" not in render_comparison_html(two)
