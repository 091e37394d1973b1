"""Widths from the outside: shares, plans with weights beside them, proofs, and what a person is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgeprune
from edgeprune import api
from edgeprune.cli.main import run
from edgeprune.core.errors import PlanError
from edgeprune.core.plan import read_plan
from edgeprune.core.widths.arrays import arrays_from_bytes, arrays_to_bytes, digest, read_arrays

DEMO = Path(__file__).resolve().parents[2] / "demo"
MODEL, DATA = DEMO / "digits_vit.onnx", DEMO / "digits_test.npz"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def options(**given) -> edgeprune.Options:
    fixed = {"samples": 60, "search": 0, "threads": 1, "data": DATA, "strategy": "uniform", "engine": False}
    return edgeprune.Options(**{**fixed, **given})


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Tokens and all three widths, in one compile."""
    out = tmp_path_factory.mktemp("widths") / "o"
    asked = options(mlp_keep=0.5, heads_keep=0.75, head_size_keep=1.0)
    return edgeprune.compile(MODEL, keep=0.8, out=out, options=asked), out


def test_what_was_cut_is_in_the_report_and_proved(compiled):
    report = compiled[0].report
    rows = {kind: [row for row in report.widths if row.kind == kind] for kind in ("mlp", "heads", "head-size")}
    assert [row.block for row in rows["mlp"]] == list(range(6))
    assert sum(row.keep for row in rows["mlp"]) == 3 * 256
    assert all(row.keep % 64 == 0 and row.of == 256 for row in rows["mlp"])
    assert sum(4 - row.keep for row in rows["heads"]) == 6
    assert all(row.keep >= 2 for row in rows["heads"])
    assert not rows["head-size"]
    assert all(row.error < row.untouched for row in report.widths)
    proof = report.validation
    assert proof.identity is True
    assert proof.exactness.passed
    assert proof.exactness.method == "masked-dense"
    assert proof.widths.passed
    assert proof.widths.method == "zeroed-dense"
    assert report.budget.macs < 0.65
    assert proof.drift["logits"].top1_agreement > 0.9


def test_the_page_and_the_terminal_show_it(compiled, capsys):
    from rich.console import Console

    from edgeprune.report.terminal import render_report

    result, out = compiled
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Widths cut" in page
    assert "solved anew" in page
    Console(width=140).print(render_report(result.report))
    assert "128 of 256" in capsys.readouterr().out


def test_the_plan_and_its_weights_give_the_same_bytes(compiled, tmp_path):
    result, out = compiled
    assert result.plan.widths_sha256 == digest((out / "widths.npz").read_bytes())
    again = edgeprune.compile(MODEL, plan=out / "plan.json", out=tmp_path / "o", options=options(samples=20))
    assert (tmp_path / "o" / "model.onnx").read_bytes() == (out / "model.onnx").read_bytes()
    assert (tmp_path / "o" / "widths.npz").read_bytes() == (out / "widths.npz").read_bytes()
    assert again.report.validation.widths.passed


def test_a_folder_is_validated_with_its_weights(compiled):
    found = api.validate(MODEL, compiled[1], data=DATA, options=options())
    assert found.validation.widths.passed
    assert found.validation.exactness.passed


def test_weights_that_are_absent_or_others_are_named(compiled, tmp_path):
    out = compiled[1]
    (tmp_path / "plan.json").write_bytes((out / "plan.json").read_bytes())
    with pytest.raises(PlanError, match="the plan cuts widths, but their weights are not there"):
        edgeprune.compile(MODEL, plan=tmp_path / "plan.json", options=options())
    (tmp_path / "widths.npz").write_bytes(b"other")
    with pytest.raises(PlanError, match=r"widths\.npz has sha256 [0-9a-f]{12}, the plan names"):
        edgeprune.compile(MODEL, plan=tmp_path / "plan.json", options=options())
    with pytest.raises(PlanError, match="the plan cuts widths, and their weights are not given"):
        edgeprune.compile(MODEL, plan=read_plan(out / "plan.json"), options=options())
    with pytest.raises(PlanError, match="a plan is applied as it is"):
        edgeprune.compile(MODEL, plan=out / "plan.json", options=options(mlp_keep=0.5))


def test_a_plan_is_written_with_its_weights(tmp_path, capsys):
    words = ["plan", str(MODEL), "--mlp-keep", "0.75", "--data", str(DATA), "--samples", "20", "--threads", "1", "-q"]
    assert run([*words, "-o", str(tmp_path / "plan.json")]) == 0
    made = read_plan(tmp_path / "plan.json")
    assert not made.cuts
    assert sum(cut.keep for cut in made.widths) + 256 * (6 - len(made.widths)) == 6 * 192
    assert read_arrays(tmp_path / "widths.npz", made.widths_sha256)
    assert run(words) == 1
    assert "a plan that cuts widths has weights beside it" in capsys.readouterr().err


def test_all_of_every_width_is_the_identity_byte_for_byte(tmp_path):
    same = options(mlp_keep=1.0, heads_keep=1.0, head_size_keep=1.0, data=DATA, tail_elimination=False)
    whole = edgeprune.compile(MODEL, keep=1.0, out=tmp_path / "a", options=same)
    edgeprune.compile(MODEL, keep=1.0, out=tmp_path / "b", options=options(tail_elimination=False))
    assert not whole.plan.widths
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()
    assert not (tmp_path / "a" / "widths.npz").exists()


def test_a_share_that_cannot_be_met_is_told():
    report = edgeprune.compile(MODEL, options=options(head_size_keep=0.5)).report
    (told,) = [words for words in report.warnings if words.startswith("head-size")]
    assert told == (
        "head-size: 100% is kept where 50% was asked for; a block keeps multiples of 8, and 16 or more of 16"
    )


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"mlp_keep": 0.0}, "`mlp_keep` is 0, expected a share above 0 and at most 1", "for example --mlp-keep 0.8"),
        ({"head_size_keep": 2.0}, "`head_size_keep` is 2, expected", "for example --head-size-keep 0.8"),
    ],
)
def test_shares_are_shares(given, message, hint):
    with pytest.raises(PlanError, match=message) as caught:
        options(**given)
    assert caught.value.hint == hint


def test_tokens_and_widths_do_not_share_one_budget_of_macs():
    with pytest.raises(PlanError, match="`macs` is met by cutting tokens alone"):
        edgeprune.compile(MODEL, macs=0.7, options=options(mlp_keep=0.5))


def test_no_data_is_an_error():
    with pytest.raises(edgeprune.DataError, match="no data to choose widths by"):
        edgeprune.compile(MODEL, options=options(mlp_keep=0.5, data=None))


def test_few_samples_are_told():
    report = edgeprune.compile(MODEL, options=options(mlp_keep=0.75, samples=6)).report
    assert any(words.startswith("widths were fitted on the 6 samples that score them") for words in report.warnings)


def test_arrays_survive_their_file():
    arrays = {"mlp.0/kept": np.array([1, 3]), "mlp.0/consumer.weight": np.ones((2, 2), np.float32)}
    data = arrays_to_bytes(arrays)
    assert arrays_to_bytes(dict(reversed(arrays.items()))) == data
    back = arrays_from_bytes(data)
    assert all(np.array_equal(back[name], array) for name, array in arrays.items())
    with pytest.raises(PlanError, match="not a file of widths"):
        arrays_from_bytes(b"no zip")


def test_the_plan_says_little_and_is_checked(compiled):
    made, text = compiled[0].plan, json.loads((compiled[1] / "plan.json").read_text())
    assert text["widths"][0] == {"kind": "mlp", "block": 0, "number": 0, "keep": made.widths[0].keep, "of": 256}
    from edgeprune.core.plan import check_plan

    twice = replace(made, widths=(made.widths[0], made.widths[0]))
    with pytest.raises(PlanError, match=r"the mlp width of block 0 is cut twice.*`widths\[1\]`"):
        check_plan(twice)
    with pytest.raises(PlanError, match=r"block 0 keeps 256 of 256 \(mlp\), expected fewer"):
        check_plan(replace(made, widths=(replace(made.widths[0], keep=256),)))
    with pytest.raises(PlanError, match="`widths_sha256`"):
        check_plan(replace(made, widths_sha256=""))


def test_an_inspection_names_what_is_coupled_and_what_a_cut_would_cost(capsys):
    found = api.inspect(MODEL, sensitivity=True, options=options())
    assert [(w.kind, w.block, w.size) for w in found.widths[:2]] == [("mlp", 0, 256), ("mlp", 1, 256)]
    assert all(len(w.coupled) >= 3 for w in found.widths)
    assert all(w.literals for w in found.widths if w.kind in {"heads", "head-size"})
    mlp = [row for row in found.sensitivity if row.kind == "mlp" and row.block == 2]
    assert [row.keep for row in mlp] == [128, 192]
    assert mlp[0].macs == pytest.approx(2 * mlp[1].macs)
    assert 0 < mlp[1].loss < mlp[0].loss < 1
    words = ["inspect", str(MODEL), "--sensitivity", "--data", str(DATA), "--samples", "20", "-q"]
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert "What one cut alone would save and lose" in shown
    assert "192 of 256" in shown
    assert run(["inspect", str(MODEL), "--sensitivity"]) == 1
    assert "no data to choose widths by" in capsys.readouterr().err


def test_the_proof_of_widths_fails_where_one_weight_is_another(compiled):
    from edgeprune.compiler.opening.loading import opened
    from edgeprune.compiler.proving.width_proof import prove_widths
    from edgeprune_passes.remove_channels import RemoveChannels

    result, out = compiled
    arrays = read_arrays(out / "widths.npz", result.plan.widths_sha256)
    feed = {"image": np.load(DATA)["image"][:1].astype(np.float32)}
    with opened(MODEL, options()) as loaded:
        narrow = loaded.dense.clone()
        RemoveChannels(result.plan.widths, arrays).apply(narrow)
        assert prove_widths(loaded.dense, narrow, result.plan, arrays, feed, threads=1).passed
        name = "mlp.2/kept"
        other = {**arrays, name: np.setdiff1d(np.arange(256), arrays[name])[: len(arrays[name])]}
        assert not prove_widths(loaded.dense, narrow, result.plan, other, feed, threads=1).passed
