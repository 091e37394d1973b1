"""Scans from the outside: what was raised is proved by a compile, what was declined is told by an inspection."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from rich.console import Console
from support.ssm import Spelled
from support.tiny_vim import VimSpelling, exported

import edgeprune
from edgeprune.compiler import job as _job
from edgeprune.core.errors import ModelError
from edgeprune.report.proofs import failed_proofs
from edgeprune.report.terminal import render_report

SMALL = VimSpelling()


@pytest.fixture(scope="module")
def unrolled(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ssm") / "vim.onnx"
    path.write_bytes(exported(SMALL))
    return path


def options(**given) -> edgeprune.Options:
    return edgeprune.Options(**{"strategy": "uniform", "search": 0, "threads": 1, "engine": False, **given})


def test_a_compile_proves_what_was_raised_from_an_unrolled_export(unrolled: Path) -> None:
    report = edgeprune.compile(unrolled, keep=0.75, options=options()).report
    proof = report.validation.scans
    assert proof.passed
    assert proof.method == "the source on noise"
    assert proof.sensitivity > 1000 * proof.max_abs_error
    console = Console(width=160, record=True, file=StringIO())
    console.print(render_report(report))
    assert "raised scans" in console.export_text()
    assert not failed_proofs(report.validation)


def test_a_scan_that_was_raised_wrongly_does_not_go_out_silently(unrolled: Path, monkeypatch) -> None:
    """The operands of one direction change places, as a slip in raising could have it."""
    prove = _job.prove_raised

    def slipped(source: ir.Model, canonical: ir.Model, *given, **named):
        wrong = canonical.clone()
        node = next(node for node in wrong.graph if node.op_type == "SelectiveScan")
        step, fed = node.inputs[:2]
        node.replace_input_with(0, fed)
        node.replace_input_with(1, step)
        return prove(source, wrong, *given, **named)

    monkeypatch.setattr(_job, "prove_raised", slipped)
    report = edgeprune.compile(unrolled, keep=0.75, options=options()).report
    (sentence,) = failed_proofs(report.validation)
    assert sentence.startswith("the raised scans are NOT the source's: error")


def test_what_cannot_be_proved_is_said(unrolled: Path, monkeypatch) -> None:
    def lost(*_, **__):
        raise ModelError("ONNX Runtime cannot load the model: no such operator")

    monkeypatch.setattr(_job, "prove_raised", lost)
    report = edgeprune.compile(unrolled, keep=0.75, options=options()).report
    assert report.validation.scans is None
    said = "what the scans were raised to is not proved: ONNX Runtime cannot load the model: no such operator"
    assert said in report.warnings


def test_an_inspection_tells_what_was_declined(tmp_path: Path) -> None:
    lines = "sums = CumSum(s, axis) low = Sub(sums, s) near = Exp(low) y = Mul(near, u)"
    path = tmp_path / "chunks.onnx"
    ir.save(Spelled(lines=lines, constants={"axis": np.array(1)}).model(), path)
    first = edgeprune.inspect(path).refusals[0]
    assert first.code.value == "not-a-selective-scan"
    assert first.reason == "sums of steps over tokens are exponentiated: a scan in chunks (Mamba-2, SSD) is not raised"


def test_inner_channels_go_beside_tokens_and_are_proved(unrolled: Path, tmp_path: Path) -> None:
    data = tmp_path / "images.npz"
    np.savez(data, image=np.random.default_rng(0).standard_normal((40, 3, 16, 16)).astype(np.float32))
    report = edgeprune.compile(unrolled, keep=0.75, options=options(inner_keep=0.5, data=data)).report
    assert [(row.kind, row.block) for row in report.widths] == [("inner", 0), ("inner", 1)]
    assert sum(row.keep for row in report.widths) == 32
    proofs = report.validation
    assert (proofs.scans.passed, proofs.identity, proofs.exactness.passed, proofs.widths.passed) == (True,) * 4
    assert proofs.scans.method == "the source on data"
