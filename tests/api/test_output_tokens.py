"""Compile with fewer output tokens: plan, folder, proof, report and page; a plan repeats it to the byte."""

from __future__ import annotations

import io
import json

import numpy as np
import onnx
import pytest
from rich.console import Console
from support.tiny_torch import to_onnx
from support.tiny_vlm import Tower, build, pixels

import edgeprune
from edgeprune.compiler.deciding.bench import Bench
from edgeprune.compiler.opening.loading import opened
from edgeprune.core.errors import PlanError
from edgeprune.core.plan import OutputCut, StrategySpec
from edgeprune.report.html import render_html
from edgeprune.report.inspection_terminal import render_inspection

DATA = "pixels.npz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tower and some inputs."""
    place = tmp_path_factory.mktemp("vlm")
    for tower in (Tower(), Tower(kind="siglip", blocks=4), Tower(projector="shuffle")):
        (place / f"{tower.kind}-{tower.projector}.onnx").write_bytes(to_onnx(build(tower), pixels(2)))
    np.savez(place / DATA, **pixels(6))
    return place


def compiled(folder, tower: str, out=None, *, keep: float | None = None, **options):
    settings = edgeprune.Options(data=folder / DATA, threads=1, search=0, **options)
    return edgeprune.compile(folder / f"{tower}.onnx", keep=keep, out=out, options=settings)


def test_a_share_leaves_and_all_is_said(folder, tmp_path):
    result = compiled(folder, "clip-mlp", tmp_path / "out", output_tokens=0.25, output_strategy="fopru-rank")
    plan, report = result.plan, result.report
    assert (plan.cuts, plan.output) == ((), OutputCut(keep=6, strategy=StrategySpec(name="fopru-rank")))
    assert report.strategy.name == "fopru-rank"
    assert report.validation.identity
    assert report.validation.exactness.passed
    (drift,) = report.validation.drift.values()  # of the rows that left; the second output has no dense twin
    assert drift.relative_error < 1e-6
    assert any(words.startswith("the interface changed: ") for words in report.warnings)
    outputs = onnx.load(tmp_path / "out" / "model.onnx").graph.output
    assert [value.name for value in outputs][1:] == ["kept_indices"]
    for token_map in report.token_maps:
        (cut,) = token_map.cuts
        assert (cut.block, sum(owner >= 0 for owner in cut.owners)) == (-1, 6)
    page = render_html(report, tmp_path / "out")
    assert "output: 6 kept, 18 dropped" in page
    assert "6 of 24, by fopru-rank" in page


def test_a_plan_repeats_it_to_the_byte_and_validate_proves_it(folder, tmp_path):
    first = compiled(folder, "siglip-mlp", tmp_path / "a", keep=0.8, output_tokens=6, strategy="uniform")
    assert first.plan.cuts
    assert first.plan.output.strategy.name == "uniform"  # one name is for both
    edgeprune.compile(folder / "siglip-mlp.onnx", plan=tmp_path / "a" / "plan.json", out=tmp_path / "b")
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()
    report = edgeprune.validate(folder / "siglip-mlp.onnx", tmp_path / "a", data=folder / DATA)
    assert report.validation.identity
    assert report.validation.exactness.passed
    (drift,) = report.validation.drift.values()
    assert 1e-4 < drift.relative_error < 1


@pytest.mark.parametrize(
    ("tower", "tokens", "name"),
    [("clip-mlp", 12, "visionzip"), ("clip-mlp", 3, "divprune"), ("siglip-mlp", 12, "divprune")],
)
def test_auto_is_a_rule_and_says_so(folder, tower, tokens, name):
    result = compiled(folder, tower, output_tokens=tokens)
    assert result.plan.output.strategy.name == name
    assert (
        f"{name} was taken for the output by rule: no language model was there to measure on" in result.report.warnings
    )


def test_bench_times_it_against_the_dense_one(folder, tmp_path):
    out = compiled(folder, "clip-mlp", tmp_path / "out", output_tokens=6, output_strategy="uniform").out
    options = edgeprune.Options(threads=1)
    runtimes = ["onnxruntime-cpu"]
    measured = edgeprune.bench(folder / "clip-mlp.onnx", out, runtimes=runtimes, rounds=6, warm_up=1, options=options)
    assert len(measured.rows[0].models) == 2


def test_inspect_says_where_tokens_leave(folder):
    inspection = edgeprune.inspect(folder / "clip-mlp.onnx")
    place = inspection.readout
    assert (place.block, place.projector, len(place.outputs)) == (1, 2, 1)
    shown = Console(width=200, record=True, file=io.StringIO())
    shown.print(render_inspection(inspection))
    said = shown.export_text()
    assert f"tokens leave behind block 1 at `{place.value}`, through 2 products, by `{place.outputs[0]}`" in said
    assert edgeprune.inspect(folder / "clip-shuffle.onnx").readout is None


def test_rows_take_the_nearest_count(folder):
    assert compiled(folder, "clip-mlp", output_tokens=7, output_strategy="fopru-row").plan.output.keep == 6


def test_nothing_is_brought_back_for_an_output_that_gets_shorter(folder):
    for tokens in (6, None):
        options = edgeprune.Options(output_tokens=tokens)
        with opened(folder / "clip-mlp.onnx", options) as loaded:
            assert Bench(loaded, options).restores is (tokens is None)


def test_outputs_stay_whole_where_nobody_asked(folder):
    result = compiled(folder, "clip-mlp", keep=0.7)
    assert result.plan.output is None
    assert not any("interface" in words for words in result.report.warnings)


def test_a_connector_over_the_grid_is_an_error_with_its_name(folder):
    with pytest.raises(PlanError, match="cannot be chosen: grid-connector: a pixel shuffle or patch merger"):
        compiled(folder, "clip-shuffle", output_tokens=6)


def test_blocks_keep_what_is_to_leave(folder):
    with pytest.raises(PlanError, match=r"the budget 0.6 cannot be met by cutting tokens: the least is 0.9"):
        compiled(folder, "siglip-mlp", keep=0.6, output_tokens=23)
    with pytest.raises(PlanError, match="25 output tokens were asked for, and 24 of 24 are left behind the last block"):
        compiled(folder, "siglip-mlp", output_tokens=25)


def test_the_command_line_takes_counts_and_shares(folder, tmp_path):
    from click.testing import CliRunner

    from edgeprune.cli.main import cli

    model = str(folder / "clip-mlp.onnx")
    for word, keep in (("6", 6), ("0.5", 12)):
        out = tmp_path / f"{keep}.json"
        words = ["plan", model, "--output-tokens", word, "--output-strategy", "holov", "--output-option", "crops=4"]
        result = CliRunner().invoke(cli, [*words, "-o", str(out)])
        assert result.exit_code == 0, result.output
        output = json.loads(out.read_text())["output"]
        assert output == {"keep": keep, "strategy": {"name": "holov", "options": {"crops": 4}}}


def test_what_reads_the_outputs_is_told_what_to_change(folder, tmp_path):
    options = edgeprune.Options(output_tokens=6)
    edgeprune.compile(folder / "clip-mlp.onnx", target="jetson-orin", out=tmp_path / "out", options=options)
    guide = (tmp_path / "out" / "language_side.md").read_text(encoding="utf-8")
    assert "kept_indices" in guide
    assert (tmp_path / "out" / "deploy" / "language_side.md").read_text(encoding="utf-8") == guide
    assert "language_side.md" in (tmp_path / "out" / "deploy" / "SHA256SUMS").read_text(encoding="utf-8")
