"""`edgeprune report`: one, several, and what is no report."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest

from edgeprune import api
from edgeprune.cli.main import run
from edgeprune.compiler.delivering.reporting import distinct_names
from edgeprune.options import Options
from edgeprune.report import Report, from_json

DEMO = Path(__file__).resolve().parents[2] / "demo"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with two real compiles, `a` and `b`."""
    folder = tmp_path_factory.mktemp("report")
    for name, keep in (("a", 0.6), ("b", 0.8)):
        options = Options(strategy="cls-topk", command=("compile", "demo/digits_vit.onnx", "--keep", f"{keep}"))
        api.compile(DEMO / "digits_vit.onnx", keep=keep, out=folder / name, options=options)
    return folder


@pytest.fixture
def out(made, tmp_path) -> Path:
    """A copy of the folder, to write into."""
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def test_one_report_shows_the_gist_and_writes_the_page_beside_it(out, capfd):
    (out / "a" / "report.html").unlink(missing_ok=True)
    before = (out / "a" / "report.json").read_bytes()
    assert run(["report", str(out / "a")]) == 0
    captured = capfd.readouterr()
    assert captured.out.startswith("The pruned model does ")
    assert captured.err == ""
    page = (out / "a" / "report.html").read_text()
    assert "digits_vit.onnx" in page
    assert (out / "a" / "report.json").read_bytes() == before
    assert run(["report", str(out / "a" / "report.json")]) == 0  # again, and by the file
    assert (out / "a" / "report.html").read_text() == page
    assert not list((out / "a").glob(".building*"))


def test_the_page_can_go_elsewhere(out, tmp_path, capfd):
    (out / "a" / "report.html").unlink(missing_ok=True)
    page = tmp_path / "page.html"
    assert run(["report", str(out / "a"), "-o", str(page), "--json"]) == 0
    assert from_json(capfd.readouterr().out.encode(), Report).schema == 2
    assert page.exists()
    assert not (out / "a" / "report.html").exists()
    assert run(["report", str(out / "a"), "-o", str(page)]) == 1
    assert capfd.readouterr().err == (
        f"error: the output {page} exists\n\nhint: give --force to overwrite it, or another name with -o\n"
    )
    assert run(["report", str(out / "a"), "-o", str(page), "--force"]) == 0
    assert run(["report", str(out / "a"), "-o", str(tmp_path), "--force"]) == 1
    assert "is a folder, expected a file" in capfd.readouterr().err


def test_several_reports_stand_side_by_side(out, tmp_path, capfd):
    page = tmp_path / "page.html"
    assert run(["report", str(out / "a"), str(out / "b"), "-o", str(page)]) == 0
    shown = capfd.readouterr().out
    assert "Side by side" in shown
    kept = [from_json((out / name / "report.json").read_bytes(), Report).budget.keep for name in "ab"]
    (line,) = [line for line in shown.splitlines() if line.startswith(" keep ")]
    assert line.split() == ["keep", *(f"{keep:.3f}" for keep in kept)]
    assert "<title>2 reports - edgeprune</title>" in page.read_text()
    assert run(["report", str(out / "a"), str(out / "b"), "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capfd.readouterr().out)["entries"]] == ["a", "b"]


def test_measured_numbers_are_for_one_report(out, capfd):
    assert run(["report", str(out / "a"), str(out / "b"), "--measured", "measured.json"]) == 2
    assert "--measured is for one report" in capfd.readouterr().err


def test_a_report_of_another_version_is_refused(out, capfd):
    path = out / "a" / "report.json"
    path.write_bytes(path.read_bytes().replace(b'"schema": 2', b'"schema": 1', 1))
    assert run(["report", str(out / "a")]) == 1
    assert capfd.readouterr().err == (
        f"error: {path} has schema 1, expected 2\n\n"
        "hint: compile again with this version; --plan plan.json repeats it\n"
    )
    path.write_bytes(path.read_bytes().replace(b'"schema": 1', b'"schema": 3', 1))
    assert run(["report", str(out / "a")]) == 1
    assert "hint: read it with a newer edgeprune" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{}", "has schema null, expected 2"),
        (b"[]", "has schema null, expected 2"),
        (b"\xff", "is no report"),
        (b'{"schema": 2}', "is not a Report of this version of edgeprune: Object missing required field `model`"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, capfd, data, words):
    (tmp_path / "report.json").write_bytes(data)
    assert run(["report", str(tmp_path)]) == 1
    assert f"{tmp_path / 'report.json'} {words}" in capfd.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_a_folder_without_a_report_is_refused(tmp_path, capfd):
    assert run(["report", str(tmp_path)]) == 1
    error = capfd.readouterr().err
    assert f"cannot read the report {tmp_path / 'report.json'}: No such file or directory" in error
    assert "hint: give a folder that `edgeprune compile -o` wrote, or its report.json" in error


def test_a_place_that_cannot_be_written_leaves_nothing(out, tmp_path, capfd):
    assert run(["report", str(out / "a"), "-o", str(tmp_path / "gone" / "page.html")]) == 1
    assert f"error: no such folder: {tmp_path / 'gone'}" in capfd.readouterr().err
    assert not (tmp_path / "gone").exists()


def test_a_full_disk_leaves_what_was_there(out, capfd):
    before = {path: path.read_bytes() for path in (out / "a").glob("report.*")}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # no file may grow beyond: a page is larger
    try:
        assert run(["report", str(out / "a")]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capfd.readouterr().err
    assert f"error: cannot write {out / 'a' / 'report.html'}: File too large" in error
    assert "hint: free some space, or choose another place with -o" in error
    assert {path: path.read_bytes() for path in (out / "a").glob("report.*")} == before
    assert not list((out / "a").glob(".building*"))


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/x/a", "/x/b"], ["a", "b"]),
        (["/x/out", "/y/out"], ["x/out", "y/out"]),
        (["/x/out", "/x/out"], ["out (1)", "out (2)"]),
        (["/x"], ["x"]),
    ],
)
def test_reports_are_told_apart_by_their_folders(folders, names):
    assert distinct_names([Path(folder) for folder in folders]) == names
