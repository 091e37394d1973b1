"""What a person reads: the gist first, the words measured and modelled, and a loud line where fusion was lost."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from edgeprune.core.results import EngineBuild
from edgeprune.report import ValidationReport
from edgeprune.report.inspection_terminal import render_inspection
from edgeprune.report.terminal import render_report, render_validation
from edgeprune.report.words import count, of_dense, runs, small


def shown(what, **settings) -> str:
    console = Console(file=io.StringIO(), width=140, highlight=False, **settings)
    console.print(what)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_the_gist_stands_first(report):
    text = shown(render_report(report))
    assert text.startswith(
        "The pruned model does 65.0 % of the MACs and is faster than the dense one: 1.44x on rtx-4090"
    )
    assert line_of(text, "strategy").split() == ["strategy", "tome"]
    assert "1.26 G -> 819 M (65.0 %)" in line_of(text, "MACs")
    assert line_of(text, "tokens per block").endswith("197, 121 x2")
    assert "asked for macs 0.65" in line_of(text, "keep")
    assert "bit for bit" in line_of(text, "identity")
    assert "KL 0.0144, same class 95.2 % on 400 samples, against vit.onnx" in line_of(text, "drift of logits")
    assert line_of(text, "engine rtx-4090").endswith("built, 12 of 12 attentions fused, the dense model has 12")


def test_every_latency_says_where_it_comes_from(report):
    text = shown(render_report(report))
    assert line_of(text, "latency, modelled").endswith("0.520 -> 0.361 ms p50, 1.44x, modelled")
    assert line_of(text, "latency, measured").endswith("30.000 -> 20.000 ms p50, 1.50x, measured (CPU)")
    for line in text.splitlines():
        if " ms " in line and "p50 ms" not in line:
            assert "measured" in line or "modelled" in line


def test_a_method_that_rows_share_is_said_once(report):
    one = next(row for row in report.latency if row.kind == "modelled")
    rows = [replace(one, method=f"roofline; fitted; {word}") for word in ("seen", "never seen")]
    text = shown(render_report(replace(report, latency=tuple(rows))))
    assert text.count("roofline") == 1
    assert line_of(text, "modelled by").split(maxsplit=2)[2] == "roofline; fitted"
    assert "modelled (seen)" in text
    assert "modelled (never seen)" in text


def test_lost_fusion_is_loud(report):
    lost = replace(report, engines=(replace(report.engines[0], fused_attentions=2),))
    assert "LOST FUSED ATTENTION: 2 of 12 attentions fused" in shown(render_report(lost))
    styled = shown(render_report(lost), force_terminal=True, color_system="standard")
    assert "\x1b[1;31mLOST FUSED ATTENTION" in styled


@pytest.mark.parametrize(
    ("changes", "loud"),
    [
        ({"fused_attentions": 12, "dense_fused_attentions": 12}, False),
        ({"fused_attentions": 0, "dense_fused_attentions": 0}, False),  # nothing was fused before either
        ({"fused_attentions": 11, "dense_fused_attentions": None}, True),
        ({"fused_attentions": 11, "attentions": 11, "dense_fused_attentions": 12}, False),  # a dead block is gone
    ],
)
def test_fusion_is_lost_only_against_the_dense_model(report, changes, loud):
    text = shown(render_report(replace(report, engines=(replace(report.engines[0], **changes),))))
    assert ("LOST" in text) is loud


def test_an_engine_that_was_not_built_says_why(report):
    failed = EngineBuild(
        target="rtx-4090", builder="tensorrt-rtx", compute_capability="8.9", built=False, error="pip install it"
    )
    text = shown(render_report(replace(report, engines=(failed,))))
    assert line_of(text, "engine rtx-4090").endswith("not built: pip install it")


def test_a_failed_proof_is_loud(report):
    exactness = replace(report.validation.exactness, passed=False)
    broken = replace(report.validation, identity=False, exactness=exactness)
    text = shown(render_report(replace(report, validation=broken)))
    assert "NOT the dense model's outputs" in text
    assert "FAILED: error 2.0e-06" in text


def test_no_data_is_said(report):
    text = shown(render_report(replace(report, validation=replace(report.validation, drift={}))))
    assert line_of(text, "drift").endswith("not measured: no data")


def test_candidates_stand_in_a_table_with_the_chosen_marked(report):
    text = shown(render_report(report))
    assert " ".join(line_of(text, " tome *").split()) == "tome * 65.0 % 0.0144 0.0144 95.2 % 0.9912"
    assert "refused cls-topk: no-class-token: the head pools all tokens at /head/ReduceMean" in text


def test_refusals_and_warnings_stand_last(report):
    second = replace(report, warnings=(*report.warnings, "a second one"))
    lines = shown(render_report(second)).splitlines()
    *_, refusal, warning = lines
    assert refusal == "refused no-class-token: the head pools all tokens at /head/ReduceMean"
    assert warning == "warning a second one"
    assert lines.count("warning no data was given") == 1  # the worst one stands below the verdict


def test_names_are_no_markup(report):
    named = replace(report, warnings=("node [bold]x[/bold] :smile:",))
    assert "node [bold]x[/bold] :smile:" in shown(render_report(named), emoji=False, markup=False)


def test_a_validation_shows_sizes_proofs_and_drift(report):
    validation = ValidationReport(
        model=report.model, pruned=report.pruned, validation=report.validation, environment=report.environment
    )
    text = shown(render_validation(validation))
    assert "1.26 G -> 819 M (65.0 %)" in text
    assert "014_n01537544.jpg" in text


def test_an_inspection_shows_blocks_refusals_and_strategies(inspection):
    text = shown(render_inspection(inspection))
    assert text.startswith("vit.onnx: opset 17, 1.26 G MACs, 5.72 M parameters; 1 blocks, 197 tokens of which 1 prefix")
    assert "unfused" in text
    assert "/blocks.0/Add_output_0" in text
    assert "batch x 3 x 224 x 224" in text
    assert "no, no-class-token: the head pools all tokens at /head/ReduceMean" in text


def test_an_inspection_without_blocks_says_so(inspection):
    text = shown(render_inspection(replace(inspection, blocks=(), strategies=())))
    assert "no transformer block was recognised" in text
    assert "Blocks" not in text


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0"), (999, "999"), (1_260_000_000, "1.26 G"), (5_717_416, "5.72 M"), (1e12, "1 T")]
)
def test_counts_have_three_digits(number, words):
    assert count(number) == words


def test_shares_and_runs():
    assert of_dense(650, 1000) == "650 (65.0 %)"
    assert of_dense(0, 0) == "0"
    assert runs((197, 197, 120, 80, 80)) == "197 x2, 120, 80 x2"
    assert runs(()) == ""


@pytest.mark.parametrize(("number", "words"), [(None, "-"), (0.0, "0.0000"), (4.2e-5, "4.2e-05"), (0.0144, "0.0144")])
def test_a_tiny_number_is_not_shown_as_zero(number, words):
    assert small(number) == words
